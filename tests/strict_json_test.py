"""Tests of JSON to dataclasses: what is taken, and how each fault is named."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import tracemalloc
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import allowance, strict_json
from tests.soak import limits

# A character that makes four bytes of each, and one that repr makes four of.
WIDE = "\U0001f600" + "\x7f" * 2_000_000


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Whole:
    number: float
    count: int
    flag: bool
    pair: tuple[float, float]
    parts: tuple[Part, ...]
    texts: Mapping[str, str]
    anything: Any = None
    maybe: int | None = None
    more: str = dataclasses.field(default="usual", metadata=strict_json.OPTIONAL)
    table: Mapping[str, int] = dataclasses.field(
        default_factory=dict, metadata=strict_json.OPTIONAL
    )


FIELDS = {
    "number": 1.5,
    "count": 3,
    "flag": True,
    "pair": [1, 2.5],
    "parts": [{"name": "a", "sizes": [1, 2]}, {"name": "b", "sizes": []}],
    "texts": {"x": "y"},
    "anything": [None, {}],
    "maybe": None,
}
WHOLE = Whole(
    1.5, 3, True, (1.0, 2.5), (Part("a", (1, 2)), Part("b")), {"x": "y"}, [None, {}]
)


def decoded(**changes):
    faults: list[str] = []
    found = strict_json.decode(Whole, FIELDS | changes, "it", faults)
    return found, faults


class LoadTest(parameterized.TestCase):
    def test_json(self):
        found = strict_json.load('{"a": [1, 2.5, null]}')
        self.assertEqual(found, ({"a": [1, 2.5, None]}, []))

    @parameterized.parameters(
        ("", "no JSON"),
        ("[1", "no JSON"),
        ("NaN", "numbers must be finite, not NaN"),
        ("[-1e400]", "numbers must be finite, not -1e400"),
        ("9" * 400 + ".5", "numbers must be finite, not 9{80}$"),
        ("[-Infinity]", "numbers must be finite, not -Infinity"),
        ('{"a": 1, "b": 2, "a": 3}', r"keys must not appear twice, as \['a'\] do"),
        ("[" * 50_000, "no JSON"),
    )
    def test_refuses(self, text, message):
        value, faults = strict_json.load(text)
        self.assertIsNone(value)
        self.assertRegex("; ".join(faults), message)

    def test_names_eight_keys_of_eighty_letters(self):
        text = ", ".join(f'"{chr(97 + i) * 90}": 1' for i in range(9))
        (fault,) = strict_json.load(f"{{{text}, {text}}}")[1]
        self.assertEqual(fault.count("', '"), 7)
        self.assertIn(f"'{'a' * 80}'", fault)

    def test_length(self):
        with mock.patch.object(strict_json, "MAX_CHARACTERS", 4):
            self.assertEqual(strict_json.load("1234"), (1234, []))
            self.assertEqual(
                strict_json.load("12345"), (None, ["5 characters, more than 4"])
            )


def _listed(*values: str) -> str:
    return f"[{','.join(values)}]"


def _named(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}"


_SIX = _named(dict.fromkeys("abcdef", "1"))
_NAMES = [f"{number:x}" for number in range(50_000)]
# What takes the most memory for its length.
LARGE = {
    "lists": _listed(*["[]"] * 50_000),
    "lists of one": _listed(*["[1]"] * 50_000),
    "lists of five": _listed(*["[1,1,1,1,1]"] * 20_000),
    "lists of lists": _listed(*[_listed(*["[]"] * 17)] * 4_000),
    "deep lists": "[" * 900 + "]" * 900,
    "objects": _listed(*["{}"] * 50_000),
    "objects of one": _listed(*['{"":1}'] * 50_000),
    "objects of six": _listed(*[_SIX] * 9_000),
    "objects of objects": _listed(*['{"a":' * 5 + "1" + "}" * 5] * 20_000),
    "deep objects": '{"a":' * 300 + "1" + "}" * 300,
    "names": _named(dict.fromkeys(_NAMES, "1")),
    "names beyond a doubling": _named(dict.fromkeys(_NAMES[:43_691], "1")),
    "names of objects": _listed(*(_named({name: "1"}) for name in _NAMES)),
    "texts": _listed(*(f'"{name}"' for name in _NAMES)),
    "wide texts": _listed(*(f'"\U0001f600{name}"' for name in _NAMES)),
    "wide text": '"' + "a" * 300_000 + '\U0001f600"',
    "escapes": '"' + "\\u4e00" * 50_000 + '"',
    "integers": _listed(*(str(number + 300) for number in range(50_000))),
    "small integers": _listed(*["1"] * 50_000),
    "floats": _listed(*["0.5"] * 50_000),
    "long integers": _listed(*["9" * 4_000] * 50),
}
KINDS = (
    *(Whole, Any, tuple[int, ...], tuple[str, ...], tuple[tuple[int, ...], ...]),
    *(tuple[Part, ...], Mapping[str, Part], Mapping[str, float]),
)


class MemoryTest(parameterized.TestCase):
    @parameterized.named_parameters(*LARGE.items())
    def test_no_text_takes_more(self, text):
        data = text.encode()
        tracemalloc.start()
        try:
            with mock.patch.object(allowance, "FREE_BYTES", 2**40):
                found, faults = strict_json.load(data.decode())
                assert not faults, faults
                for kind in KINDS:
                    strict_json.decode(kind, found, "it", [])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # Beside it the messages of a thousand faults.
        self.assertLess(peak, strict_json.memory(text) + 2**19)

    def test_a_text_may_take_four_times_the_file_and_a_little(self):
        text = "[" + "[]," * 100_000 + "[]]"
        most = strict_json.memory(text)
        size = -((allowance.FREE_BYTES - most) // 4)
        self.assertEqual(strict_json.load(text, size)[1], [])
        found, (fault,) = strict_json.load(text, size - 1)
        self.assertIsNone(found)
        self.assertIn(f"may take {most} bytes of memory, more than", fault)
        self.assertIn("more than", strict_json.load(text)[1][0])

    def test_texts_within_the_text_are_counted(self):
        inner = "[" + "[]," * 1_000 + "[]]"
        for text in (inner, "".join(f"\\u{ord(c):04x}" for c in inner)):
            outer = f'["{text}"]'
            self.assertGreater(strict_json.memory(outer), strict_json.memory(inner))

    def test_decoding_ends_at_a_thousand_faults(self):
        for kind, value in (
            (tuple[Part, ...], [{}] * 5_000),
            (Mapping[str, Part], {str(n): {} for n in range(5_000)}),
        ):
            faults: list[str] = []
            strict_json.decode(kind, value, "it", faults)
            self.assertBetween(len(faults), 1_000, 1_001)

    def test_utf8_is_refused_before_it_is_decoded(self):
        for text in ("\u0378" + "a" * 4_000_000 + "\U0001f600", WIDE):
            for data in (text.encode(), b"[1," + text.encode() + b"\xff"):
                for given in (data, memoryview(data)):
                    tracemalloc.start()
                    try:
                        found, (fault,) = strict_json.load(given)
                        peak = tracemalloc.get_traced_memory()[1]
                    finally:
                        tracemalloc.stop()
                    self.assertIsNone(found)
                    self.assertRegex(fault, "a text that may take .* more than")
                    self.assertLess(peak, len(data) + 10_000)

    def test_utf8(self):
        text = '{"a": "\U0001f600\u0378"}'
        for data in (text.encode(), memoryview(text.encode())):
            self.assertEqual(strict_json.load(data), strict_json.load(text))
        self.assertEqual(strict_json.load(b'"\xff"'), ("\ufffd", []))
        large = "[" + '"\u0378",' * 300_000 + "1]"
        found, faults = strict_json.load(large.encode(), 10 * len(large))
        self.assertEqual((len(found), faults), (300_001, []))

    def test_faults_within_a_long_name_take_little(self):
        value = {"k" * 1_000_000: {"name": "a", "sizes": ["x"] * 900}}
        faults: list[str] = []
        kind = Mapping[str, Part]
        decode = functools.partial(strict_json.decode, kind, value, "it", faults)
        limits.held(decode, 2**20)
        self.assertLen(faults, 900)
        self.assertLess(max(map(len, faults)), 200)

    def test_what_is_shown_is_short_and_takes_little(self):
        for value in (WIDE, [WIDE] * 9, {WIDE: WIDE}, [[[WIDE]]], WIDE.encode()):
            limits.held(functools.partial(strict_json.shown, value), 2**16)
            self.assertLessEqual(len(strict_json.shown(value)), 80)
        for value in ("a", 1.5, None, [1, "a"], {"a": [1]}, b"x"):
            self.assertEqual(strict_json.shown(value), repr(value))

    def test_names_in_faults_are_printable(self):
        faults: list[str] = []
        strict_json.decode(Mapping[str, int], {"\ud800\n": "q", "a": "q"}, "it", faults)
        expected = [
            "it.\\ud800\\n must be int, not 'q'", "it.a must be int, not 'q'",
        ]  # fmt: skip
        self.assertEqual(faults, expected)

    def test_a_summary_is_short(self):
        text = strict_json.summary(["a" * 150 + "b" * 9_999 + "c" * 150] * 50)
        self.assertLess(len(text), 7_000)
        self.assertTrue(text.startswith("a" * 150 + "..." + "c" * 150 + "; "))
        self.assertEqual(strict_json.summary(["a" * 300]), "a" * 300)

    def test_one_name_twice_among_many_is_found_at_once(self):
        seconds = []
        for names in (_NAMES[:25_000], _NAMES[:24_999] + ["1"]):
            text = "{" + ",".join(f'"{name}":1' for name in names) + "}"
            started = time.process_time()
            _, faults = strict_json.load(text)
            seconds.append(time.process_time() - started)
        self.assertIn("['1']", faults[0])
        self.assertLess(seconds[1], 20 * seconds[0])  # Squared it was 500 times.


class DecodeTest(parameterized.TestCase):
    def test_every_kind(self):
        found, faults = decoded()
        self.assertEqual(faults, [])
        self.assertEqual(found, WHOLE)
        self.assertIsInstance(found.pair[0], float)
        self.assertIsInstance(found.parts[0].sizes, tuple)

    def test_what_may_be_left_out_and_what_may_be_null(self):
        self.assertEqual(decoded(more="other", table={"a": 1})[0].table, {"a": 1})
        self.assertEqual(decoded(maybe=7)[0].maybe, 7)
        fields = {key: FIELDS[key] for key in FIELDS if key not in ("maybe", "count")}
        faults: list[str] = []
        strict_json.decode(Whole, fields, "it", faults)
        self.assertEqual(
            faults, ["it lacks the key 'count'", "it lacks the key 'maybe'"]
        )

    @parameterized.parameters(
        ("number", "1", "it.number must be float, not '1'"),
        ("number", True, "it.number must be float, not True"),
        ("number", 10**400, "it.number must be finite, not 1000"),
        ("number", math.inf, "it.number must be finite, not inf"),
        ("count", 3.0, "it.count must be int, not 3.0"),
        ("count", True, "it.count must be int, not True"),
        ("flag", 1, "it.flag must be bool, not 1"),
        ("maybe", "x", "it.maybe must be int, not 'x'"),
        ("pair", [1], "it.pair must have 2 items, not 1"),
        ("pair", [1, 2, 3], "it.pair must have 2 items, not 3"),
        ("pair", {}, "it.pair must be a list, not {}"),
        ("pair", [1, "x"], r"it.pair\[1\] must be float, not 'x'"),
        ("parts", [{"name": 1, "sizes": []}], r"it.parts\[0\].name must be str, not 1"),
        ("parts", [3], r"it.parts\[0\] must be an object, not 3"),
        ("parts", [{"name": "a", "sizes": [1, 2.5]}],
         r"it.parts\[0\].sizes\[1\] must be int, not 2.5"),
        ("parts", [{"name": "a", "sizes": [True]}],
         r"it.parts\[0\].sizes\[0\] must be int, not True"),
        ("texts", [], r"it.texts must be an object, not \[\]"),
        ("texts", {"a": 1}, "it.texts.a must be str, not 1"),
        ("table", {"a": "b"}, "it.table.a must be int, not 'b'"),
        ("unknown", 1, "it has an unknown key 'unknown'"),
        ("k" * 90, 1, f"it has an unknown key '{'k' * 80}'"),
    )  # fmt: skip
    def test_refuses(self, key, value, message):
        _, faults = decoded(**{key: value})
        self.assertLen(faults, 1)
        self.assertRegex(faults[0], f"^{message}")

    def test_every_fault_is_named_and_none_twice(self):
        found, faults = decoded(count="x", pair=[None, "x"], texts={"a": 1, "b": 2})
        self.assertIsNone(found)
        self.assertEqual(
            [fault.partition(" ")[0] for fault in faults],
            ["it.count", "it.pair[0]", "it.pair[1]", "it.texts.a", "it.texts.b"],
        )

    def test_faults_that_were_there_stay_as_they_are(self):
        faults = ["before"]
        strict_json.decode(Part, [], "it", faults)
        self.assertEqual(faults, ["before", "it must be an object, not []"])

    def test_long_values_are_cut(self):
        (_, (fault,)) = decoded(count="x" * 78)
        self.assertEndsWith(fault, f"not '{'x' * 78}'")
        (_, (fault,)) = decoded(count="x" * 79)
        self.assertEndsWith(fault, f"not '{'x' * 76}...")


class DumpTest(parameterized.TestCase):
    def test_a_dataclass(self):
        text = strict_json.dump(Part("é", (1,)))
        self.assertEqual(text, '{"name":"\\u00e9","sizes":[1]}')

    def test_what_is_usual_is_left_out(self):
        self.assertNotIn("more", strict_json.dump(WHOLE))
        self.assertNotIn("table", strict_json.dump(WHOLE))
        other = dataclasses.replace(WHOLE, more="other", table={"a": 1})
        self.assertIn('"more":"other"', strict_json.dump(other))
        self.assertIn('"table":{"a":1}', strict_json.dump(other))
        faults: list[str] = []
        value = strict_json.load(strict_json.dump(other))[0]
        self.assertEqual(strict_json.decode(Whole, value, "it", faults), other)

    def test_scalars_of_numpy(self):
        self.assertEqual(strict_json.dump([np.int32(3), np.float32(0.5)]), "[3,0.5]")

    @parameterized.parameters(
        (np.zeros(1),), (np.zeros(3),), ({1, 2},), (Part,), (b"x",)
    )
    def test_refuses(self, value):
        with self.assertRaisesRegex(TypeError, "JSON cannot hold"):
            strict_json.dump({"x": value})

    def test_refuses_what_is_not_finite(self):
        with self.assertRaises(ValueError):
            strict_json.dump([math.nan])


class SummaryTest(absltest.TestCase):
    def test_the_first_twenty(self):
        faults = [str(number) for number in range(21)]
        self.assertEqual(strict_json.summary(faults[:2]), "0; 1")
        self.assertNotIn("more", strict_json.summary(faults[:20]))
        self.assertEndsWith(strict_json.summary(faults), "; 19; and 1 more")


if __name__ == "__main__":
    absltest.main()
