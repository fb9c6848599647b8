"""Order, hold-out and the message that lists faults."""

import pathlib

import pytest

from ondevice.device import images, samples


def dataset(*names):
    return samples.Dataset(
        ("a", "b"),
        tuple(samples.Sample(pathlib.Path(name), 0, ()) for name in names),
    )


def paths(part):
    return [str(sample.path) for sample in part.samples]


class TestOrder:
    def test_numbers_count_as_numbers(self):
        part = dataset("a/img_1000.jpg", "b/img_20.jpg", "a/img_3.jpg")
        found = sorted(part.samples, key=samples.order)
        assert [samples.numbers(s.path) for s in found] == [(3,), (20,), (1000,)]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("img_1118.jpg", (1118,)),
            ("2024-01-31 7.png", (2024, 1, 31, 7)),
            ("hand.jpg", ()),
            ("x" + "9" * 5000, (10**18 - 1,) * 277 + (10**14 - 1,)),
        ],
    )
    def test_numbers_of_a_name(self, name, expected):
        assert samples.numbers(pathlib.Path(name)) == expected


class TestSplit:
    def test_last_tenth_by_number_over_all_classes(self):
        names = [f"{'ab'[i % 2]}/img_{i}.jpg" for i in range(40)]
        train, held = samples.split(dataset(*reversed(names)))
        assert paths(held) == names[36:]
        assert paths(train) == names[:36]

    def test_equal_numbers_stay_on_one_side(self):
        # Every class counts from 0: the cut falls between two numbers.
        names = [f"{folder}/{i}.jpg" for i in range(10) for folder in "abc"]
        train, held = samples.split(dataset(*names))
        assert paths(held) == ["a/9.jpg", "b/9.jpg", "c/9.jpg"]
        names = [f"{folder}/{i}.jpg" for i in range(10) for folder in "abcd"]
        _, held = samples.split(dataset(*names), share=0.05)
        assert paths(held) == ["a/9.jpg", "b/9.jpg", "c/9.jpg", "d/9.jpg"]

    def test_equal_numbers_are_parted_rather_than_holding_out_far_more(self):
        names = [f"{folder}/{i}.jpg" for i in range(10) for folder in "abcd"]
        _, held = samples.split(dataset(*names), share=0.02)
        assert paths(held) == ["d/9.jpg"]
        _, held = samples.split(dataset(*[f"{c}/1.jpg" for c in "abcdefghij"]))
        assert paths(held) == ["j/1.jpg"]

    def test_without_numbers_the_last_names_are_held_out(self):
        names = [f"a/{chr(97 + i)}.jpg" for i in range(20)]
        train, held = samples.split(dataset(*names))
        assert paths(held) == names[18:]

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_few_pictures_leave_one_on_each_side(self, count):
        train, held = samples.split(dataset(*[f"a/{i}.jpg" for i in range(count)]))
        assert (len(train), len(held)) == (count - 1, 1)

    def test_refuses_a_single_picture(self):
        with pytest.raises(samples.DataError, match="two or more"):
            samples.split(dataset("a/1.jpg"))


class TestUnreadable:
    def test_faults_come_in_the_order_of_the_samples(self):
        def read(path):
            if "bad" in path.name:
                raise images.ImageError(f"{path} is broken")

        part = dataset("bad2.jpg", "good.jpg", "bad1.jpg")
        assert samples.unreadable(part.samples, read) == [
            "bad2.jpg is broken",
            "bad1.jpg is broken",
        ]

    def test_other_errors_pass_through(self):
        def read(path):
            raise RuntimeError("a fault of ours")

        with pytest.raises(RuntimeError, match="ours"):
            samples.unreadable(dataset("a.jpg").samples, read)


class TestDataError:
    def test_lists_every_fault_in_a_line_of_its_own(self):
        faults = [f"fault {i}\nof two lines" for i in range(500)]
        error = samples.DataError("DIR", faults)
        text = str(error)
        assert text.startswith("DIR cannot be used as data:\n  fault 0 of two lines\n")
        assert len(text.splitlines()) == len(error.lines) == 501
        assert error.faults == tuple(faults)

    def test_a_flood_is_counted(self):
        error = samples.DataError("DIR", ["fault"] * 5000)
        assert len(error.lines) == 1002 and error.lines[-1] == "  and 4000 more."

    def test_a_single_fault_takes_no_line(self):
        error = samples.DataError("DIR", ["It must exist."])
        assert str(error) == "DIR cannot be used as data: It must exist."

    def test_those_of_several_sets_come_together(self):
        errors = [samples.DataError("A", ["a1", "a2"]), samples.DataError("B", ["b1"])]
        error = samples.DataError.of_all(errors)
        assert error.faults == ("a1", "a2", "b1") and error.lines[0].startswith(
            "A and B"
        )


class TestRepeated:
    def test_files_equal_to_the_byte(self, tmp_path):
        made = []
        for name, text in enumerate(["ab", "cd", "ab", "", "", "abc", "cd", "ab"]):
            path = tmp_path / f"{name}.jpg"
            path.write_text(text)
            made.append(samples.Sample(path, 0))
        groups = samples.repeated(made)
        names = [[sample.path.stem for sample in group] for group in groups]
        assert names == [["0", "2", "7"], ["1", "6"]]
        found = samples.common(made[:2], made[2:])
        assert [path.stem for path in found] == ["2", "7", "6"]
        assert samples.common(made[:1], made[5:7]) == []
        assert samples.common(made[:1], made[:1]) == []


class TestDataset:
    def test_labelled_keeps_empty_labels(self):
        part = samples.Dataset(
            ("a",),
            (
                samples.Sample(pathlib.Path("1.jpg"), 0, None),
                samples.Sample(pathlib.Path("2.jpg"), 0, ()),
            ),
        )
        assert paths(part.labelled()) == ["2.jpg"]
