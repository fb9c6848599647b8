"""Long JSON, read record by record: like Python's own reader, within bounds."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.device import json_records

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
INDENTS = st.sampled_from((None, 0, 3))


def lists(data):
    return {
        name: None if items is None else list(items)
        for name, items in json_records.lists(data)
    }


class TestLikePythons:
    @given(st.dictionaries(st.text(), JSON), INDENTS, st.booleans())
    def test_members(self, document, indent, escape):
        data = json.dumps(document, indent=indent, ensure_ascii=escape).encode()
        assert dict(json_records.members(data)) == document

    @given(st.dictionaries(st.text(), JSON), INDENTS)
    def test_lists(self, document, indent):
        data = json.dumps(document, indent=indent).encode()
        assert lists(data) == {
            name: value if isinstance(value, list) else None
            for name, value in document.items()
        }

    def test_values_across_the_end_of_a_part(self, monkeypatch):
        # Each of these, cut, is another value; each begins at every place of a part.
        monkeypatch.setattr(json_records, "LONGEST", 40)
        values = [123, 1.5e30, -0.25, "a, b", "\u00e9\u4e00\U0001f600", [1, {"a": 2}]]
        for spaces in range(45):
            document = {"x": values * 30, " " * (spaces % 9): 12345}
            data = json.dumps(document, ensure_ascii=False).replace(
                "[123", "[" + " " * spaces + "123"
            )
            assert lists(data.encode())["x"] == values * 30

    def test_a_mark_of_byte_order(self):
        assert dict(json_records.members(b'\xef\xbb\xbf{"a":1}')) == {"a": 1}

    def test_lists_that_nobody_uses_are_read_over(self):
        data = b'{"a": [1, 2], "b": {"c": [3]}, "d": [4]}'
        assert [name for name, _ in json_records.lists(data)] == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "{ must stand at byte 0, not the end"),
        (b"[1]", "{ must stand at byte 0, not \\["),
        (b'{"a": [1}', "] must stand at byte 8, not }"),
        (b'{"a": [1,]}', "value at byte 9"),
        (b'{"a": 1', "} must stand at byte 7, not the end"),
        (b'{"a": 1} x', "nothing must follow at byte 9"),
        (b'{"a" 1}', ": must stand at byte 5, not 1"),
        (b"{1: 1}", "a name must stand before byte 2"),
        (b'{"a": 1 "b": 2}', "} must stand at byte 8"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": tru}', "value at byte 6"),
        (b'{"\xc3\xa9": tru}', "value at byte 7"),
        (b'{"a": [' + b"[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_json_tells_where(data, words):
    with pytest.raises(ValueError, match=words):
        lists(data)


class TestLength:
    @pytest.mark.parametrize("of", ['"%s"', "%s"])
    def test_of_one_value(self, monkeypatch, of):
        monkeypatch.setattr(json_records, "LONGEST", 100)
        for size, fits in ((100 - len(of % ""), True), (101 - len(of % ""), False)):
            value = of % ("1" * (size - 1))
            data = f'{{"a": [1, {value}, 2], "b": "{"x" * 50}"}}'.encode()
            if fits:
                assert lists(data)["a"] == [1, json.loads(value), 2]
            else:
                with pytest.raises(ValueError, match="100 bytes|Unterminated"):
                    lists(data)

    def test_no_more_is_held_than_a_part(self):
        for unit in ("[]", '{"a":[[]]}', '"\U0001f600"'):
            data = f'{{"a": [{",".join([unit] * 80_000)}]}}'.encode()
            tracemalloc.start()
            try:
                for _, items in json_records.lists(data):
                    for _ in items:
                        pass
                assert tracemalloc.get_traced_memory()[1] < 10 * json_records.LONGEST
            finally:
                tracemalloc.stop()


def test_items_and_members_are_counted(monkeypatch):
    monkeypatch.setattr(json_records, "ITEMS", 3)
    assert lists(b'{"a": [1, 2, 3], "b": [4]}') == {"a": [1, 2, 3], "b": [4]}
    for data in (b'{"a": [1, 2, 3], "b": [4, 5]}', b'{"a":1,"b":1,"c":1,"d":[1,2]}'):
        with pytest.raises(ValueError, match="fewer items for its length"):
            lists(data)
        assert len(lists(data + b" " * 50)) > 1  # A longer file may have another one.


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity"])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="Infinity is no number|NaN is no number"):
        lists(b'{"a": [{"b": ' + value + b"}]}")


def test_places_are_those_in_the_whole():
    before = b'{"a": [' + b"1, " * json_records.LONGEST
    with pytest.raises(ValueError, match=f"utf-8, at byte {len(before) + 1}"):
        lists(before + b'"\xff"]}')
    spaces = b" " * json_records.LONGEST
    with pytest.raises(ValueError, match="Expecting ',' delimiter, or it is longer"):
        lists(b'{"a": [[1 2' + spaces + b"]]}")
