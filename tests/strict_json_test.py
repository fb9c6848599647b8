"""Tests of JSON to dataclasses: what is taken, and how each fault is named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import strict_json


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
        ("[-Infinity]", "numbers must be finite, not -Infinity"),
        ('{"a": 1, "b": 2, "a": 3}', r"keys must not appear twice, as \['a'\] do"),
        ("[" * 100_000, "no JSON"),
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
