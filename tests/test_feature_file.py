"""Feature files: what is written is read again, and two specs are compared field by field."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_cache import SPEC, SPEC32, age, tables, values, write

import featx
from featx.cache import Features, layout, load_features, require_same_spec, spec_difference, write_features
from featx.cache.layout import read_reasons
from featx.errors import CacheError, CorruptCacheError, SpecMismatchError

# ----------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(2, 2, 3), (5,), (1, 1, 1), (3, 7)])
def test_features_come_back_bit_for_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    written = values(7, shape, dtype)
    ids = [f"{number:032x}" for number in range(7)]
    blocks = [written[:3], written[3:4], written[4:]]
    write_features(
        tmp_path / "f.h5", blocks, written.shape, spec={**SPEC, "dtype": dtype}, tables={"ids": ids, "views": [0] * 7}
    )
    read = Features(tmp_path / "f.h5")
    assert read.shape == written.shape and read.dtype == dtype and len(read) == 7
    assert read.stored().dtype == dtype and np.array_equal(read.stored(), written)
    assert read.X().dtype == np.float32 and np.array_equal(read.X(), written.astype(np.float32))
    assert read.damaged_rows() == []


def test_extreme_values_come_back(tmp_path: Path) -> None:
    info = np.finfo(np.float32)
    written = np.array([[info.max, info.min], [info.tiny, info.smallest_subnormal], [0.0, -0.0]], np.float32)
    write_features(tmp_path / "f.h5", [written], (3, 2), spec=SPEC32, tables=tables(["a", "b", "c"]))
    assert load_features(tmp_path / "f.h5").stored().tobytes() == written.tobytes()


@pytest.mark.parametrize(
    "rows",
    [
        slice(1, 4),
        slice(None, None, -2),
        slice(2, 2),
        [4, 0, 0, 3],
        [],
        np.array([5, 1]),
        [-1, -6],
        np.array([True, False, True, False, False, True]),
        [False, True, False, False, False, True],
        np.zeros(6, bool),
    ],
    ids=str,
)
def test_rows_are_chosen_like_in_an_array(tmp_path: Path, rows: Any) -> None:
    written = write(tmp_path / "f.h5")
    read = Features(tmp_path / "f.h5")
    expected = written[np.arange(6)[rows]]
    assert np.array_equal(read.stored(rows), expected) and read.stored(rows).dtype == "float16"
    for got in (read.X(rows), read[rows]):
        assert got.shape == expected.shape and got.dtype == np.float32
        assert np.array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize("row", [0, 5, -1, np.int64(3)])
def test_one_number_gives_one_row(tmp_path: Path, row: Any) -> None:
    written = write(tmp_path / "f.h5")
    got = Features(tmp_path / "f.h5")[row]
    assert got.shape == (2, 2, 3) and np.array_equal(got, written[row].astype(np.float32))


def test_a_row_that_does_not_exist_is_an_index_error(tmp_path: Path) -> None:
    write(tmp_path / "f.h5")
    with pytest.raises(IndexError):
        Features(tmp_path / "f.h5")[6]


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    written = write(tmp_path / "f.h5", spec=SPEC32)
    before = (tmp_path / "f.h5").read_bytes()
    read = Features(tmp_path / "f.h5")
    for mine in (read.X(), read.stored(), read.X(slice(0, 6)), read[0]):
        assert type(mine) is np.ndarray
        mine[...] = 0
    assert np.array_equal(read.X(), written)
    assert (tmp_path / "f.h5").read_bytes() == before


@pytest.mark.parametrize("rows", [None, slice(10, 90, 3), [80, 2, 41], np.arange(100) % 3 == 0], ids=str)
def test_blocks_are_X_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    written = values(100)
    write_features(
        tmp_path / "f.h5", [written], written.shape, spec=SPEC, tables=tables([f"id{n}" for n in range(100)])
    )
    read = Features(tmp_path / "f.h5")
    monkeypatch.setattr(layout, "BLOCK_BYTES", 7 * 12 * 4)  # seven rows of float32
    blocks = list(read.blocks(rows))
    assert max(len(numbers) for numbers, _ in blocks) <= 7 and len(blocks) > 0
    numbers = np.concatenate([numbers for numbers, _ in blocks])
    assert np.array_equal(numbers, np.arange(100)[slice(None) if rows is None else rows])
    assert np.array_equal(np.concatenate([features for _, features in blocks]), read.X(rows))
    assert all(features.dtype == np.float32 for _, features in blocks)


def test_tables_and_attributes_come_back(tmp_path: Path) -> None:
    paths = [
        "кошки/ペンギン.jpg",
        "a\nb/c\td.png",
        "e\u0301/\u00e9 'quoted\" \\.png",
        " spaces / .png",
        "\U0001f427.gif",
        "",
    ]
    ids = [f"{number:032x}" for number in range(6)]
    quarantine = [("ü/\nbad.png", "f" * 32, "damaged: é"), ("gone.png", "", "no such file")]
    stat = [("кошки/ペンギン.jpg", ids[0], 2**40, 1_700_000_000_123_456_789, -1), ("x", ids[1], 0, 0, 2**62)]
    spec = {**SPEC, "note": ["ä", 1, 2.5, None, True]}
    attributes = {
        "class_names": ["ø", "a\nb", ""],
        "dataset": "data ä",
        "root": "/data/ü",
        "recipe": {"size": None, "backbone": "x"},
        "decoded_by": "pillow 12",
    }
    write_features(
        tmp_path / "f.h5",
        [values(6)],
        (6, 2, 2, 3),
        spec=spec,
        attributes=attributes,
        tables={
            "ids": ids,
            "views": [0, 1, 2, 0, 1, 2],
            "labels": [0, 1, 2, -1, 2**31 - 1, 0],
            "paths": paths,
            "splits": ["train", "validation", "test", "", "", "train"],
            "quarantine": quarantine,
            "stat": stat,
        },
    )
    read = Features(tmp_path / "f.h5")
    assert read.paths.tolist() == paths and all(type(path) is str for path in read.paths)
    assert read.ids.tolist() == ids
    assert read.splits.tolist() == ["train", "validation", "test", "", "", "train"]
    assert read.y.tolist() == [0, 1, 2, -1, 2**31 - 1, 0] and read.y.dtype == np.int32
    assert read.views.tolist() == [0, 1, 2, 0, 1, 2] and read.views.dtype == np.int16
    assert read.quarantine == [(path, reason) for path, _, reason in quarantine]
    assert read_reasons(tmp_path / "f.h5") == {"f" * 32: "damaged: é"}
    assert read.stats() == {path: ((size, mtime, ctime), content) for path, content, size, mtime, ctime in stat}
    assert read.row_keys() == list(zip(ids, [0, 1, 2, 0, 1, 2], [""] * 6, strict=True))
    assert read.spec == spec and read.class_names == attributes["class_names"]
    assert (read.dataset, read.root, read.recipe, read.decoded_by) == (
        "data ä",
        "/data/ü",
        {"size": None, "backbone": "x"},
        "pillow 12",
    )
    assert read.featx_version == featx.__version__


def test_empty_quarantine_and_stat_come_back_empty(tmp_path: Path) -> None:
    write(tmp_path / "f.h5", quarantine=[], stat=[])
    read = Features(tmp_path / "f.h5")
    assert read.quarantine == [] and read.stats() == {} and read_reasons(tmp_path / "f.h5") == {}


def test_a_block_without_labels_has_neutral_tables(tmp_path: Path) -> None:
    tables_of_a_block = {"ids": ["a", "b"], "views": [0, 0]}
    write_features(tmp_path / "f.h5", [values(2)], (2, 2, 2, 3), spec=SPEC, tables=tables_of_a_block)
    read = Features(tmp_path / "f.h5")
    assert read.y.tolist() == [-1, -1] and read.paths.tolist() == ["", ""] and read.splits.tolist() == ["", ""]
    assert read.class_names == [] and read.quarantine == []


def test_thirty_thousand_long_class_names(tmp_path: Path) -> None:
    """HDF5 attributes of plain text end at 64 KiB."""
    many = [f"{number:05} " + "naïve ☃ name " * 12 for number in range(30_000)]
    write_features(
        tmp_path / "f.h5",
        [values(2)],
        (2, 2, 2, 3),
        spec=SPEC,
        tables=tables(["a", "b"]),
        attributes={"class_names": many},
    )
    assert Features(tmp_path / "f.h5").class_names == many


def test_anyone_with_h5py_can_read_it(tmp_path: Path) -> None:
    """The objects that DESIGN.md documents, read without featx."""
    written = write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        assert {"features", "labels", "paths", "ids", "splits", "views", "quarantine", "stat"} <= set(file)
        assert np.array_equal(file["features"][...], written) and file["features"].dtype == np.float16
        assert file["labels"][...].tolist() == [0, 1, 0, 1, 0, 1] and file["labels"].dtype == np.int32
        assert file["views"][...].tolist() == [0] * 6 and file["views"].dtype == np.int16
        assert file["paths"].asstr()[0] == "class/id0.png"
        assert file["ids"].asstr()[:].tolist() == [f"id{number}" for number in range(6)]
        assert set(file["splits"].asstr()[:]) == {"train"}
        assert file["quarantine"][0]["path"] == b"class/bad.png"
        assert file["quarantine"][0]["reason"] == b"the file is empty"
        assert file["stat"][0]["size"] == 0 and file["stat"][0]["mtime_ns"] == 1
        attributes = {name: json.loads(value) for name, value in file.attrs.items()}
    assert attributes["schema"] == 1 and attributes["spec"] == SPEC and attributes["class_names"] == ["a", "b"]
    assert attributes["featx_version"] == featx.__version__


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=st.integers(1, 8), dtype=st.sampled_from(["float16", "float32"]))
def test_any_file_round_trips(data: st.DataObject, rows: int, dtype: str) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    written = values(rows, shape, dtype, seed=data.draw(st.integers(0, 2**32)))

    def column(strategy: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(strategy, min_size=rows, max_size=rows))

    expected = {
        "ids": column(text),
        "views": column(st.integers(0, 2**15 - 1)),
        "labels": column(st.integers(-1, 2**31 - 1)),
        "paths": column(text),
        "splits": column(st.sampled_from(["train", "validation", "test", ""])),
        "quarantine": data.draw(st.lists(st.tuples(text, text, text), max_size=3)),
    }
    class_names = data.draw(st.lists(text, max_size=4))
    spec = {"backbone": "any", "dtype": dtype, "note": data.draw(text)}
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.h5"
        blocks = [written[a:b] for a, b in zip([0, *cuts], [*cuts, rows], strict=True)]
        attributes = {"class_names": class_names}
        write_features(path, blocks, written.shape, spec=spec, tables=expected, attributes=attributes)
        read = load_features(path)
        assert np.array_equal(read.stored(), written) and read.stored().dtype == dtype
        assert read.ids.tolist() == expected["ids"] and read.views.tolist() == expected["views"]
        assert read.y.tolist() == expected["labels"] and read.paths.tolist() == expected["paths"]
        assert read.splits.tolist() == expected["splits"]
        assert read.quarantine == [(path, reason) for path, _, reason in expected["quarantine"]]
        assert read.class_names == class_names and read.spec == spec


# -------------------------------------------------------------------------------------------------------- load_features


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "f.h5")
    assert load_features(tmp_path / "f.h5").ids is load_features(str(tmp_path / "f.h5")).ids


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    first = write(tmp_path / "f.h5", seed=1)
    assert np.array_equal(load_features(tmp_path / "f.h5").stored(), first)
    second = write(tmp_path / "f.h5", ["x", "y", "z", "u", "v", "w"], seed=2)
    read = load_features(tmp_path / "f.h5")
    assert np.array_equal(read.stored(), second) and read.ids.tolist() == ["x", "y", "z", "u", "v", "w"]


def test_a_file_altered_in_place_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path / "f.h5")
    age(tmp_path / "f.h5", 60)
    load_features(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["labels"][0] = 1
    with pytest.raises(CorruptCacheError, match="altered"):
        load_features(tmp_path / "f.h5")


def test_a_deleted_file_is_not_answered_from_memory(tmp_path: Path) -> None:
    write(tmp_path / "f.h5")
    load_features(tmp_path / "f.h5")
    (tmp_path / "f.h5").unlink()
    with pytest.raises(CacheError, match="no such feature file"):
        load_features(tmp_path / "f.h5")


def test_one_callers_changes_are_not_the_next_ones_labels(tmp_path: Path) -> None:
    """Merging two classes in place is common; the file still says what it says."""
    write(tmp_path / "f.h5")
    mine = load_features(tmp_path / "f.h5")
    for change in (lambda: mine.y.__setitem__(0, 77), lambda: mine.class_names.append("c")):
        try:
            change()
        except (ValueError, AttributeError):
            pass  # refused, which is as good
    again = load_features(tmp_path / "f.h5")
    assert again.y.tolist() == [0, 1, 0, 1, 0, 1] and list(again.class_names) == ["a", "b"]


def test_a_file_replaced_while_open_gives_the_old_values_or_an_error(tmp_path: Path) -> None:
    first = write(tmp_path / "f.h5", seed=1)
    read = Features(tmp_path / "f.h5")
    write(tmp_path / "f.h5", seed=2)
    try:
        assert np.array_equal(read.stored(), first)
    except CorruptCacheError:
        pass


# ---------------------------------------------------------------------------------------------------------------- specs


def test_spec_difference_names_the_field_and_both_values() -> None:
    assert spec_difference(SPEC, dict(SPEC)) == []
    lines = spec_difference(SPEC, {**SPEC, "layer": "pool", "size": 64})
    assert lines == ["layer is last, not pool", "size is 32, not 64"]
    without = {name: value for name, value in SPEC.items() if name != "weights"}
    assert spec_difference(SPEC, without) == ["weights is abc, not None"]
    assert spec_difference(without, SPEC) == ["weights is None, not abc"]


def test_require_same_spec_names_the_field_both_values_and_the_way_out() -> None:
    require_same_spec(SPEC, dict(SPEC), "f.h5")
    with pytest.raises(SpecMismatchError, match=r"f\.h5 .*pooling is avg, not max.*Extract again") as caught:
        require_same_spec({**SPEC, "pooling": "avg"}, {**SPEC, "pooling": "max"}, "f.h5")
    assert "\n" not in str(caught.value) and "layer" not in str(caught.value)
