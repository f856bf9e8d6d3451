"""The feature file and the cache folder: what was written is what is read, or an error says why not."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import disk_of, until
from hypothesis import given, settings
from hypothesis import strategies as st

import featx
from featx.cache import (
    CacheFolder,
    Features,
    MissingRowsError,
    Place,
    gather,
    layout,
    load_features,
    remove,
    require_room,
    require_same_spec,
    size_on_disk,
    spec_difference,
    write_features,
)
from featx.cache.layout import read_reasons
from featx.errors import CacheError, CorruptCacheError, SpecMismatchError

SPEC = {"backbone": "tiny.keras", "weights": "abc", "layer": "last", "size": 32, "dtype": "float16"}
SPEC32 = {**SPEC, "dtype": "float32"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}


def values(rows: int, shape: tuple[int, ...] = (2, 2, 3), dtype: str = "float16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, (rows, *shape)).astype(dtype)


def tables(ids: list[str], **more: Any) -> dict[str, Any]:
    """All tables a finished file has, for rows with these content ids."""
    return {
        "ids": ids,
        "views": [0] * len(ids),
        "labels": [number % 2 for number in range(len(ids))],
        "paths": [f"class/{name}.png" for name in ids],
        "splits": ["train"] * len(ids),
        "quarantine": [("class/bad.png", "f" * 32, "the file is empty")],
        "stat": [("class/bad.png", "f" * 32, 0, 1, 2)],
        **more,
    }


def write(
    path: Path, ids: list[str] | int = 6, spec: dict[str, Any] = SPEC, root: str = "/data", seed: int = 0, **more: Any
) -> np.ndarray:
    """Write a feature file with all tables; returns its features."""
    names = [f"id{number}" for number in range(ids)] if isinstance(ids, int) else ids
    features = values(len(names), dtype=spec["dtype"], seed=seed)
    attributes = {"class_names": ["a", "b"], "dataset": "data", "root": root}
    write_features(path, [features], features.shape, spec=spec, tables=tables(names, **more), attributes=attributes)
    return features


def age(path: Path, seconds: int) -> None:
    """Make a file look as if it had been written that long ago."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def damage(path: Path, row: int, byte: int = 0) -> None:
    """Flip one bit in a row's features."""
    with h5py.File(path) as file:
        start, row_bytes = file["features"].id.get_offset(), file["features"][0].nbytes
    flip(path, start + row * row_bytes + byte, 3)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    with disk_of("256k", tmp_path / "disk") as folder:
        yield folder


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


# ----------------------------------------------------------------------------------------------------- damaged features


@pytest.mark.parametrize("row", [0, 3, 5])
@pytest.mark.parametrize("byte", [0, 13, 23])
def test_a_flipped_bit_in_a_row_is_found_and_named(tmp_path: Path, row: int, byte: int) -> None:
    written = write(tmp_path / "f.h5")
    damage(tmp_path / "f.h5", row, byte)
    read = Features(tmp_path / "f.h5")
    assert read.damaged_rows() == [row]
    with pytest.raises(CorruptCacheError, match=rf"1 rows are damaged, the first is {row} \(class/id{row}\.png\)"):
        read.X()
    with pytest.raises(CorruptCacheError, match=f"class/id{row}.png"):
        read[row]
    with pytest.raises(CorruptCacheError, match="Extract again"):
        list(read.blocks())
    others = [number for number in range(6) if number != row]
    assert np.array_equal(read.stored(others), written[others])


def test_a_damaged_row_of_a_block_is_named_by_its_id(tmp_path: Path) -> None:
    write_features(
        tmp_path / "f.h5", [values(2)], (2, 2, 2, 3), spec=SPEC, tables={"ids": ["aa", "bb"], "views": [0, 0]}
    )
    damage(tmp_path / "f.h5", 1)
    with pytest.raises(CorruptCacheError, match=r"the first is 1 \(bb\)"):
        Features(tmp_path / "f.h5").X()


def test_all_damaged_rows_are_found_in_pieces_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f.h5", 50)
    for row in (0, 6, 7, 49):
        damage(tmp_path / "f.h5", row)
    monkeypatch.setattr(layout, "BLOCK_BYTES", 7 * 24)
    assert Features(tmp_path / "f.h5").damaged_rows() == [0, 6, 7, 49]


def test_a_budget_looks_at_evenly_spaced_rows(tmp_path: Path) -> None:
    write(tmp_path / "f.h5", 40)
    for row in range(40):
        damage(tmp_path / "f.h5", row)
    read = Features(tmp_path / "f.h5")
    assert read.damaged_rows(budget=10 * 24) == list(range(0, 40, 4))
    assert read.damaged_rows(budget=40 * 24) == list(range(40))


def test_a_zeroed_stretch_is_found(tmp_path: Path) -> None:
    """What a disk gives back after a power cut."""
    write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        start = file["features"].id.get_offset()
    data = bytearray((tmp_path / "f.h5").read_bytes())
    data[start + 24 : start + 72] = bytes(48)
    (tmp_path / "f.h5").write_bytes(data)
    assert Features(tmp_path / "f.h5").damaged_rows() == [1, 2]


# ----------------------------------------------------------------------------------------------------- altered metadata


def _replace(name: str, data: Any) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        del file[name]
        file[name] = data

    return edit


def _set(name: str, row: int, value: Any) -> Callable[[Any], None]:
    return lambda file: file[name].__setitem__(row, value)


def _attribute(name: str, value: str) -> Callable[[Any], None]:
    return lambda file: file.attrs.__setitem__(name, value)


EDITS: dict[str, Callable[[Any], None]] = {
    "labels": _set("labels", 0, 1),
    "paths": _set("paths", 2, "class/other.png"),
    "ids": _set("ids", 2, "id0"),
    "splits": _set("splits", 1, "test"),
    "views": _set("views", 5, 1),
    "checksums": _set("checksums", 0, 0),
    "quarantine": _set("quarantine", 0, (b"class/bad.png", b"f", b"another reason")),
    "stat": _set("stat", 0, (b"class/bad.png", b"f", 0, 1, 3)),
    "labels gone": lambda file: file.__delitem__("labels"),
    "ids gone": lambda file: file.__delitem__("ids"),
    "checksums gone": lambda file: file.__delitem__("checksums"),
    "features gone": lambda file: file.__delitem__("features"),
    "fewer labels": _replace("labels", np.zeros(5, np.int32)),
    "fewer checksums": _replace("checksums", np.zeros(5, np.uint32)),
    "labels of bytes": _replace("labels", np.array([b"a"] * 6)),
    "views of bytes": _replace("views", np.array([b"a"] * 6)),
    "paths that are not UTF-8": _replace("paths", np.array([b"\xff\xfe"] * 6, dtype=h5py.string_dtype())),
    "paths of numbers": _replace("paths", np.zeros(6)),
    "features in chunks": lambda file: _chunked(file),
    "more features": lambda file: _replace("features", np.zeros((7, 2, 2, 3), np.float16))(file),
    "fewer features": lambda file: _replace("features", file["features"][:5])(file),
    "features of another shape": lambda file: _replace("features", file["features"][...].reshape(6, 12))(file),
    "features of integers": lambda file: _replace("features", file["features"][...].view(np.int16))(file),
    "features of the other byte order": lambda file: _replace("features", file["features"][...].view(">f2"))(file),
    "features in a group": lambda file: (file.__delitem__("features"), file.create_group("features")),
    "class names": _attribute("class_names", '["b", "a"]'),
    "spec": _attribute("spec", json.dumps({**SPEC, "layer": "first"})),
    "root": _attribute("root", '"/elsewhere"'),
    "no JSON": _attribute("class_names", "["),
    "another attribute": _attribute("mine", "1"),
    "spec gone": lambda file: file.attrs.__delitem__("spec"),
}


def _chunked(file: Any) -> None:
    features = file["features"][...]
    del file["features"]
    file.create_dataset("features", data=features, chunks=(1, 2, 2, 3))


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_noticed(tmp_path: Path, edit: str) -> None:
    """At the latest when features are read; never other values, and never anything but CorruptCacheError."""
    write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        EDITS[edit](file)
    with pytest.raises(CorruptCacheError):
        Features(tmp_path / "f.h5").X()
    with pytest.raises(CorruptCacheError):
        load_features(tmp_path / "f.h5").X()


def test_a_flipped_bit_in_the_labels_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        start = file["labels"].id.get_offset()
    flip(tmp_path / "f.h5", start)
    with pytest.raises(CorruptCacheError, match="altered"):
        Features(tmp_path / "f.h5")


def test_a_flipped_bit_in_the_shape_or_dtype_never_gives_other_values(tmp_path: Path) -> None:
    """Row checksums cover a row's bytes, not what they mean: byte order, float or integer, how many rows."""
    path = tmp_path / "f.h5"
    written = write(path, 5)
    whole = path.read_bytes()
    shape, dtype = struct.pack("<4Q", 5, 2, 2, 3), bytes.fromhex("11200f0002000000")
    at = whole.find(shape)
    assert at > 0 and whole.find(dtype, at) > 0, "the file's layout has changed; find these bytes anew"
    places = [at - 7, *range(at, at + 32, 8), *range(whole.find(dtype, at), whole.find(dtype, at) + 8)]
    wrong = []
    for offset in places:
        for bit in range(8):
            path.write_bytes(whole)
            flip(path, offset, bit)
            try:
                read = Features(path)
                got = read.X()
                if read.dtype != np.float16 or not np.array_equal(got, written.astype(np.float32)):
                    wrong.append(f"bit {bit} of byte {offset}: {read}")
            except CacheError:
                pass
            except Exception as error:
                wrong.append(f"bit {bit} of byte {offset}: {error!r}")
    assert wrong == []


@pytest.mark.parametrize("where", ["the type of an attribute", "the size of a text"])
def test_a_flipped_bit_neither_kills_nor_hangs_the_reader(tmp_path: Path, where: str) -> None:
    """HDF5 follows some damaged lengths for ever, and crashes on some types; a cache is a file from a disk."""
    path = tmp_path / "f.h5"
    ids = [f"{number:032x}" for number in range(5)]
    write(path, ids)
    whole = path.read_bytes()
    if where == "the type of an attribute":
        found = re.search(rb"schema\0+\x19", whole)
        assert found, "the file's layout has changed; find this byte anew"
        flip(path, found.end(), 1)
    else:
        flip(path, whole.index(ids[0].encode()) - 7, 2)
    script = (
        "import sys\nfrom featx.cache import Features\nfrom featx.errors import CacheError\n"
        "try: print(Features(sys.argv[1]).ids.tolist())\nexcept CacheError: print('refused')"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, path], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.fail("opening the file does not end")
    assert done.returncode == 0, f"the process died with {done.returncode}: {done.stderr}"
    assert done.stdout.strip() in ("refused", str(ids))


# -------------------------------------------------------------------------------------------- files that cannot be read


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 2000, 0.25, 0.5, 0.75, 0.99, -100, -1])
def test_a_truncated_file_is_corrupt(tmp_path: Path, length: float) -> None:
    path = tmp_path / "f.h5"
    write(path, 500)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole)) if isinstance(length, float) else length])
    with pytest.raises(CorruptCacheError, match="extract again"):
        load_features(path).X()


@pytest.mark.parametrize("rows_left", [-1, 0, 250, 499.5])
def test_a_file_truncated_while_open_is_corrupt(tmp_path: Path, rows_left: float) -> None:
    path = tmp_path / "f.h5"
    write(path, 500)
    with h5py.File(path) as file:
        start = file["features"].id.get_offset()
    read = Features(path)
    os.truncate(path, max(0, start + int(rows_left * 24)) if rows_left >= 0 else 0)
    with pytest.raises(CorruptCacheError):
        read.X()
    path.unlink()
    with pytest.raises(CacheError):
        read.X()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for load in (load_features, Features):
        with pytest.raises(CacheError, match=r"no such feature file: .*nothing\.h5"):
            load(tmp_path / "nothing.h5")
    with pytest.raises(CacheError, match="is a folder, no feature file; `featx extract .*` makes one of its pictures"):
        load_features(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all\n" * 50, b"\0" * 9999, b"[]", b'{"featx": 1}'])
def test_what_is_not_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.h5").write_bytes(content)
    with pytest.raises(CacheError, match="not a readable feature file"):
        load_features(tmp_path / "f.h5")


def test_somebody_elses_hdf5_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
        file.attrs["title"] = "weights"
    with pytest.raises(CacheError, match="not one of featx's"):
        load_features(tmp_path / "f.h5")


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(layout, "SCHEMA", 99)
        write(tmp_path / "f.h5")
    with pytest.raises(CacheError, match="has schema 99, this featx reads 1"):
        load_features(tmp_path / "f.h5")


@pytest.mark.parametrize("edit", ["labels of gigabytes", "fewer labels", "fewer checksums"])
def test_a_crafted_file_is_refused_before_memory_is_taken(tmp_path: Path, edit: str) -> None:
    """A seal keeps accidents out; whoever writes one for his own file still gets nowhere."""
    path = tmp_path / "f.h5"
    write(path)
    with h5py.File(path, "r+") as file:
        if edit == "labels of gigabytes":
            del file["labels"]
            file.create_dataset("labels", (3 * 10**9,), np.int32)  # not allocated: a few bytes on the disk
        else:
            EDITS[edit](file)
        start, nbytes = file["features"].id.get_offset(), 6 * 24
    layout.seal(path, start, nbytes)
    with pytest.raises(CorruptCacheError, match="promises more than it holds|not as long as its features"):
        load_features(path)


# --------------------------------------------------------------------------------------------------- writing that fails


def _interrupted(error: BaseException) -> Iterator[np.ndarray]:
    yield values(3)
    raise error


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        ZeroDivisionError(),
        OSError(5, "Input/output error"),
        MissingRowsError({Place(Path("x"), 1)}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("old", [True, False])
def test_a_write_that_fails_half_way_changes_nothing(tmp_path: Path, error: BaseException, old: bool) -> None:
    if old:
        write(tmp_path / "f.h5", seed=3)
    before = (tmp_path / "f.h5").read_bytes() if old else b""
    with pytest.raises(CacheError if isinstance(error, OSError) else type(error)):
        write_features(tmp_path / "f.h5", _interrupted(error), (6, 2, 2, 3), spec=SPEC, tables=tables(list("abcdef")))
    assert names(tmp_path) == (["f.h5"] if old else [])
    if old:
        assert (tmp_path / "f.h5").read_bytes() == before


@pytest.mark.parametrize("rows", [0, 5])
def test_too_few_rows_are_no_file(tmp_path: Path, rows: int) -> None:
    before = write(tmp_path / "f.h5")
    with pytest.raises(CacheError, match=f"{rows} rows were given for a file of 6"):
        write_features(tmp_path / "f.h5", [values(rows)], (6, 2, 2, 3), spec=SPEC, tables=tables(list("abcdef")))
    assert names(tmp_path) == ["f.h5"] and np.array_equal(Features(tmp_path / "f.h5").stored(), before)


def test_too_many_rows_are_no_file(tmp_path: Path) -> None:
    with pytest.raises((CacheError, TypeError, ValueError)):
        write_features(tmp_path / "f.h5", [values(7)], (6, 2, 2, 3), spec=SPEC, tables=tables(list("abcdef")))
    assert names(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    old = write(small_disk / "f.h5")
    before, free = (small_disk / "f.h5").read_bytes(), shutil.disk_usage(small_disk).free
    big = values(20, (4, 64, 64))
    ids = [str(number) for number in range(20)]
    for _ in range(2):
        with pytest.raises(CacheError, match="no room") as caught:
            write_features(small_disk / "f.h5", iter(big[:, None]), big.shape, spec=SPEC, tables=tables(ids))
        assert "`cache_dir`" in str(caught.value) and "\n" not in str(caught.value)
        assert names(small_disk) == ["f.h5"] and (small_disk / "f.h5").read_bytes() == before
        assert shutil.disk_usage(small_disk).free == free, "the unfinished file still takes its room"
    assert np.array_equal(Features(small_disk / "f.h5").stored(), old)
    new = write(small_disk / "f.h5", seed=9)
    assert np.array_equal(Features(small_disk / "f.h5").stored(), new)


FILLING_UP = """
import gc, sys
from pathlib import Path
import numpy as np
from featx.cache import load_features, write_features
from featx.errors import CacheError

disk, leave, spec = Path(sys.argv[1]), int(sys.argv[2]), {"backbone": "x", "dtype": "float16"}

def rows():
    yield np.ones((4, 8192), np.float16)
    with open(disk / "other", "wb", buffering=0) as file:  # what another process writes meanwhile
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
        file.truncate(file.tell() - leave)
    yield np.ones((4, 8192), np.float16)

try:
    write_features(disk / "f.h5", rows(), (8, 8192), spec=spec, tables={"ids": list("abcdefgh"), "views": [0] * 8})
except CacheError as error:
    print(error)
(disk / "other").unlink()
gc.collect()
print(sorted(path.name for path in disk.iterdir()))
row = np.ones((1, 8192), np.float16)
write_features(disk / "f.h5", [row], row.shape, spec=spec, tables={"ids": ["a"], "views": [0]})
print(load_features(disk / "f.h5").X().sum())
"""


@pytest.mark.parametrize("leave", [0, 65536], ids=["before the features", "before the tables"])
def test_a_disk_that_fills_up_meanwhile_does_not_kill_the_process(small_disk: Path, leave: int) -> None:
    """In a process of its own: HDF5 may crash long after it could not flush a file."""
    done = subprocess.run(
        [sys.executable, "-c", FILLING_UP, small_disk, str(leave)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"the process died with {done.returncode}: {done.stderr[-300:]}"
    assert done.stderr == ""
    left, total = done.stdout.splitlines()  # its room was taken before: the file is whole
    assert left == "['f.h5']" and total == "8192.0"


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_no_room_is_said_wherever_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Network disks report a full disk only when the file is synced."""
    write(tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, stage, full)
    with pytest.raises(CacheError, match="no room left on the disk"):
        write(tmp_path / "f.h5", seed=5)
    assert names(tmp_path) == ["f.h5"] and (tmp_path / "f.h5").read_bytes() == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refused_write_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(CacheError, match="cannot be written; give another `cache_dir`"):
        write(tmp_path / "f.h5")
    assert names(tmp_path) == []


def test_a_read_only_disk_can_be_read_and_is_not_written(small_disk: Path) -> None:
    folder = CacheFolder(small_disk)
    written = write(small_disk / "f.h5")
    with folder.lock(small_disk / "f.h5"):
        pass
    folder.write_memo("memo.json", {})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    assert np.array_equal(load_features(small_disk / "f.h5").stored(), written)
    assert len(folder.find_rows(SPEC, set())) == 6
    with pytest.raises(CacheError, match="cannot be written"):
        write(small_disk / "g.h5")
    with pytest.raises(CacheError, match="cannot be written"):
        folder.write_memo("memo.json", {"a": 1})
    with pytest.raises(CacheError, match="cannot be written"):
        remove(small_disk / "f.h5")


def test_the_lock_on_a_read_only_disk_is_a_cache_error(small_disk: Path) -> None:
    with CacheFolder(small_disk).lock(small_disk / "f.h5"):
        pass
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    with pytest.raises(CacheError, match="cannot be written"), CacheFolder(small_disk).lock(small_disk / "f.h5"):
        pass


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(CacheError, match="cannot be written; give another `cache_dir`"):
        write(tmp_path / "cache" / "f.h5")


def test_a_cache_folder_that_is_a_file_is_a_cache_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match="cannot be written"):
        write(tmp_path / "cache" / "f.h5")
    with pytest.raises(CacheError, match="cannot be written"):
        CacheFolder(tmp_path / "cache").write_memo("memo.json", {})


def test_a_reader_does_not_keep_the_writer_out(tmp_path: Path) -> None:
    """keras#13632: HDF5's own locks; and the reader goes on with the file it opened."""
    first = write(tmp_path / "f.h5", seed=1)
    with h5py.File(tmp_path / "f.h5", "r") as reader:
        second = write(tmp_path / "f.h5", seed=2)
        assert np.array_equal(reader["features"][...], first)
    assert np.array_equal(load_features(tmp_path / "f.h5").stored(), second)


def test_the_folder_is_made(tmp_path: Path) -> None:
    written = write(tmp_path / "a" / "b" / "f.h5")
    assert np.array_equal(load_features(tmp_path / "a" / "b" / "f.h5").stored(), written)
    assert names(tmp_path / "a" / "b") == ["f.h5"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """hloc#40: a crash leaves an unreadable file."""
    written = write(tmp_path / "f.h5")
    script = (
        "import os, sys, signal\nfrom pathlib import Path\nimport numpy as np\nfrom featx.cache import write_features\n"
        "def rows():\n    yield np.zeros((3, 4), 'f2')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "spec = {'backbone': 'x', 'dtype': 'float16'}\n"
        "tables = {'ids': list('abcdef'), 'views': [0] * 6}\n"
        "write_features(Path(sys.argv[1]), rows(), (6, 4), spec=spec, tables=tables)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "f.h5"], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == -9
    assert np.array_equal(Features(tmp_path / "f.h5").stored(), written)
    assert CacheFolder(tmp_path).files() == [tmp_path / "f.h5"]


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


# ----------------------------------------------------------------------------------------------------------- find, copy


def test_rows_are_found_by_spec_in_the_newest_file(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    write(tmp_path / "old.h5", ["a", "b", "c"])
    write(tmp_path / "new.h5", ["c", "b", "d"])
    write(tmp_path / "other.h5", ["a", "e"], spec={**SPEC, "size": 64})
    age(tmp_path / "old.h5", 100)
    age(tmp_path / "new.h5", 50)
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    assert folder.find_rows(SPEC, set()) == {
        ("a", 0, ""): Place(old, 0),
        ("b", 0, ""): Place(new, 1),
        ("c", 0, ""): Place(new, 0),
        ("d", 0, ""): Place(new, 2),
    }
    age(tmp_path / "new.h5", 200)
    assert folder.find_rows(SPEC, set())["b", 0, ""] == Place(old, 1)
    assert folder.find_rows({**SPEC, "size": 128}, set()) == {}


def test_damaged_places_give_way_to_others(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    write(tmp_path / "old.h5", ["a", "b"])
    write(tmp_path / "new.h5", ["a", "b"])
    age(tmp_path / "old.h5", 100)
    without = {Place(tmp_path / "new.h5", 0)}
    assert folder.find_rows(SPEC, without) == {
        ("a", 0, ""): Place(tmp_path / "old.h5", 0),
        ("b", 0, ""): Place(tmp_path / "new.h5", 1),
    }
    assert ("a", 0, "") not in folder.find_rows(SPEC, without | {Place(tmp_path / "old.h5", 0)})


def test_views_are_rows_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "f.h5", ["a", "a", "b"], views=[0, 1, 0])
    assert set(CacheFolder(tmp_path).find_rows(SPEC, set())) == {("a", 0, ""), ("a", 1, ""), ("b", 0, "")}


def test_blocks_are_searched_after_files(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    file = tmp_path / "data-tiny-1234.h5"
    write(folder.partial(file) / "block-00000.h5", ["a", "b"])
    write(tmp_path / "done.h5", ["b"])
    (folder.partial(file) / ".block-00001.h5.77").write_bytes(b"unfinished")
    found = folder.find_rows(SPEC, set())
    assert found["a", 0, ""] == Place(folder.partial(file) / "block-00000.h5", 0)
    assert found["b", 0, ""] == Place(tmp_path / "done.h5", 0)


def test_unreadable_files_are_warned_of_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "good.h5", ["a"])
    write(tmp_path / "truncated.h5", ["b"])
    os.truncate(tmp_path / "truncated.h5", 900)
    (tmp_path / "foreign.h5").write_text("not HDF5")
    with caplog.at_level(logging.WARNING):
        found = CacheFolder(tmp_path).find_rows(SPEC, set())
    assert set(found) == {("a", 0, "")}
    assert "truncated.h5" in caplog.text and "foreign.h5" in caplog.text and "good.h5" not in caplog.text


def test_features_filters_by_header(tmp_path: Path) -> None:
    write(tmp_path / "one.h5", root="/one")
    write(tmp_path / "two.h5", root="/two")
    folder = CacheFolder(tmp_path)
    assert [f.path.name for f in folder.iter_features(root="/two")] == ["two.h5"]
    assert [f.path.name for f in folder.iter_features(root="/two", spec=SPEC32)] == []
    assert {f.path.name for f in folder.iter_features()} == {"one.h5", "two.h5"}


def test_a_folder_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "nothing")
    assert folder.files() == [] and folder.find_rows(SPEC, set()) == {} and folder.superseded() == []


@pytest.mark.parametrize("rows_a_block", [1, 3, 1000])
def test_gather_copies_from_several_files_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_a_block: int
) -> None:
    parts = {name: write(tmp_path / name, 10, seed=seed) for seed, name in enumerate(["a.h5", "b.h5", "c.h5"])}
    rng = np.random.default_rng(4)
    wanted = [(name, int(row)) for name in parts for row in rng.permutation(10)] + [("a.h5", 3), ("a.h5", 3)]
    wanted = [wanted[number] for number in rng.permutation(len(wanted))]
    monkeypatch.setattr(layout, "BLOCK_BYTES", rows_a_block * 24)
    blocks = list(gather([Place(tmp_path / name, row) for name, row in wanted], (2, 2, 3), "float16"))
    assert max(map(len, blocks)) <= rows_a_block
    assert np.array_equal(np.concatenate(blocks), np.stack([parts[name][row] for name, row in wanted]))


def test_gather_names_every_row_that_is_damaged_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(["good", "hit", "gone", "short"]):
        write(tmp_path / f"{name}.h5", 10, seed=seed)
    places = [Place(tmp_path / f"{name}.h5", row) for row in (4, 1, 7) for name in ("good", "hit", "gone", "short")]
    damage(tmp_path / "hit.h5", 1)
    damage(tmp_path / "hit.h5", 9)  # not asked for
    (tmp_path / "gone.h5").unlink()
    os.truncate(tmp_path / "short.h5", 1000)
    monkeypatch.setattr(layout, "BLOCK_BYTES", 5 * 24)
    with pytest.raises(MissingRowsError) as caught:
        list(gather(places, (2, 2, 3), "float16"))
    lost = {Place(tmp_path / f"{name}.h5", row) for name in ("gone", "short") for row in (1, 4, 7)}
    assert caught.value.places == lost | {Place(tmp_path / "hit.h5", 1)}
    assert isinstance(caught.value, CacheError)


def test_gather_from_a_file_that_has_become_shorter(tmp_path: Path) -> None:
    """Another process may have written the file anew between finding a row and copying it."""
    write(tmp_path / "f.h5", 10)
    places = [Place(tmp_path / "f.h5", 2), Place(tmp_path / "f.h5", 8)]
    write(tmp_path / "f.h5", 5)
    with pytest.raises(MissingRowsError) as caught:
        list(gather(places, (2, 2, 3), "float16"))
    assert Place(tmp_path / "f.h5", 8) in caught.value.places


def test_a_copy_that_fails_leaves_no_file(tmp_path: Path) -> None:
    write(tmp_path / "f.h5", 10)
    damage(tmp_path / "f.h5", 3)
    rows = gather([Place(tmp_path / "f.h5", row) for row in range(10)], (2, 2, 3), "float16")
    with pytest.raises(MissingRowsError):
        write_features(
            tmp_path / "g.h5", rows, (10, 2, 2, 3), spec=SPEC, tables=tables([f"id{number}" for number in range(10)])
        )
    assert names(tmp_path) == ["f.h5"]


# -------------------------------------------------------------------------------------------------------- names, newest


def test_a_file_name_depends_on_spec_and_listing_alone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    first = folder.file_for("flowers", SPEC, [["a.png", "id", "x", ""]])
    assert first == folder.file_for("flowers", dict(reversed(SPEC.items())), [["a.png", "id", "x", ""]])
    assert re.fullmatch(r"flowers-tiny-[0-9a-f]{16}\.h5", first.name) and first.parent == tmp_path
    others = {
        folder.file_for("flowers", {**SPEC, "size": 33}, [["a.png", "id", "x", ""]]),
        folder.file_for("flowers", SPEC, [["a.png", "id", "y", ""]]),
        folder.file_for("flowers", SPEC, [["b.png", "id", "x", ""]]),
    }
    assert first not in others and len(others) == 3


def test_a_file_name_is_the_same_in_every_process(tmp_path: Path) -> None:
    """datasets#5161: a key that changes every run never hits."""
    script = (
        "from featx.cache import CacheFolder\n"
        "print(CacheFolder('c').file_for('d', {'backbone': 'x', 'b': 1, 'a': 'ä'}, {'z': 1, 'y': [None, 2.5]}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**ENVIRONMENT, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    "dataset",
    [
        "my pictures",
        "a/b\\c:d*e?",
        "..",
        ".hidden",
        "line\nbreak",
        "ペンギン" * 10,
        "bad\udce9bytes",
        "-rf",
        "x" * 240,
        "é" * 120,
    ],
)
def test_any_data_set_name_makes_a_file_that_is_found_again(tmp_path: Path, dataset: str) -> None:
    folder = CacheFolder(tmp_path / "cache")
    path = folder.file_for(dataset, SPEC, [])
    assert path.parent == folder.folder and not re.search(r"[\s/\\:*?]", path.name)
    write(path)
    assert folder.files() == [path] and folder.newest() == path
    assert len(folder.find_rows(SPEC, set())) == 6
    write(folder.partial(path) / "block-00000.h5", ["new"])
    assert ("new", 0, "") in folder.find_rows(SPEC, set())
    with folder.lock(path):
        pass


def test_newest_is_the_one_written_last(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    with pytest.raises(CacheError, match="no feature file in .*featx extract"):
        folder.newest()
    for name, seconds in {"b": 10, "a": 30, "c": 20}.items():
        write(tmp_path / f"{name}.h5")
        age(tmp_path / f"{name}.h5", seconds)
    assert folder.newest() == tmp_path / "b.h5"
    assert [path.stem for path in folder.files()] == ["b", "c", "a"]
    age(tmp_path / "a.h5", 5)
    assert folder.newest() == tmp_path / "a.h5"


def test_newest_passes_over_what_is_no_feature_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.h5")
    age(tmp_path / "a.h5", 100)
    (tmp_path / "z.h5").write_bytes(b"")
    assert CacheFolder(tmp_path).newest() == tmp_path / "a.h5"
    assert "z.h5 is not a readable feature file: it is empty" in caplog.text


def test_unfinished_and_foreign_files_are_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    (tmp_path / ".a.h5.123").write_bytes(b"")
    (tmp_path / "README.md").write_text("hello")
    write(tmp_path / "a.partial" / "block-00000.h5")
    assert CacheFolder(tmp_path).files() == [tmp_path / "a.h5"]


# --------------------------------------------------------------------------------------------------- superseded, remove


def test_superseded_is_what_a_newer_file_holds_completely(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    cases: dict[str, tuple[list[str], dict[str, Any], str]] = {
        "new": (["a", "b", "c"], SPEC, "/data"),
        "subset": (["c", "a"], SPEC, "/data"),
        "same": (["a", "b", "c"], SPEC, "/data"),
        "more": (["a", "b", "c", "d"], SPEC, "/data"),
        "spec": (["a"], SPEC32, "/data"),
        "root": (["a"], SPEC, "/elsewhere"),
    }
    for number, (name, (ids, spec, root)) in enumerate(cases.items()):
        write(tmp_path / f"{name}.h5", ids, spec=spec, root=root)
        age(tmp_path / f"{name}.h5", 10 * number)
    assert {path.stem for path in folder.superseded()} == {"subset", "same"}


def test_pruning_never_loses_a_row(tmp_path: Path) -> None:
    """Whatever lies in a folder, every row that could be found before is found after."""
    rng = np.random.default_rng(0)
    for trial in range(12):
        folder = CacheFolder(tmp_path / str(trial))
        for number in range(6):
            ids = [f"id{n}" for n in rng.permutation(5)[: rng.integers(1, 6)]]
            spec, root = [(SPEC, "/data"), (SPEC32, "/data"), (SPEC, "/other")][rng.integers(3)]
            write(folder.folder / f"{number}.h5", ids, spec=spec, root=root)
            age(folder.folder / f"{number}.h5", int(rng.integers(1, 1000)))
        before = {spec["dtype"]: set(folder.find_rows(spec, set())) for spec in (SPEC, SPEC32)}
        for path in folder.superseded():
            remove(path)
        assert {spec["dtype"]: set(folder.find_rows(spec, set())) for spec in (SPEC, SPEC32)} == before
        assert folder.superseded() == []


def test_blocks_whose_rows_are_in_a_finished_file_are_superseded(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    write(tmp_path / "data-tiny-1.h5", ["a", "b"])
    write(tmp_path / "data-tiny-1.partial" / "block-00000.h5", ["a"])
    assert folder.superseded() == [tmp_path / "data-tiny-1.partial"]


def test_pruning_keeps_the_rows_of_an_interrupted_extraction(tmp_path: Path) -> None:
    """Ctrl-C said that they are kept: hours of work may lie in blocks that no finished file holds yet."""
    folder = CacheFolder(tmp_path)
    write(tmp_path / "data-tiny-1.h5", ["a", "b"])
    write(tmp_path / "data-tiny-2.partial" / "block-00000.h5", ["c", "d"])
    for path in folder.superseded():
        remove(path)
    assert set(folder.find_rows(SPEC, set())) == {("a", 0, ""), ("b", 0, ""), ("c", 0, ""), ("d", 0, "")}


def test_blocks_of_a_running_extraction_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CacheFolder(tmp_path)
    file = tmp_path / "data-tiny-1.h5"
    write(file, ["a"])
    write(folder.partial(file) / "block-00000.h5", ["a"])
    with _held_elsewhere(folder, file):
        assert list(folder.prune()) == []
    assert "running extraction" in caplog.text and folder.partial(file).exists()
    assert [path for path, _ in folder.prune()] == [folder.partial(file)]
    assert not folder.partial(file).exists()


def test_files_of_another_label_file_in_the_same_folder_stay(tmp_path: Path) -> None:
    """They have the same root and pictures, but other labels."""
    for number, name in enumerate(["all", "small"]):
        features = values(3 - number)
        attributes = {"class_names": ["a", "b"], "dataset": name, "root": "/data"}
        ids = ["x", "y", "z"][: 3 - number]
        write_features(
            tmp_path / f"{name}.h5", [features], features.shape, spec=SPEC, tables=tables(ids), attributes=attributes
        )
        age(tmp_path / f"{name}.h5", number)
    assert CacheFolder(tmp_path).superseded() == []


def test_remove_says_how_much_it_freed(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    write(tmp_path / "b.partial" / "block-00000.h5")
    write(tmp_path / "b.partial" / "block-00001.h5", 40)
    expected = sum(path.stat().st_size for path in (tmp_path / "b.partial").iterdir())
    assert size_on_disk(tmp_path / "b.partial") == expected == remove(tmp_path / "b.partial")
    size = (tmp_path / "a.h5").stat().st_size
    assert size > 0 and remove(tmp_path / "a.h5") == size
    assert names(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------------- locks


class _held_elsewhere:
    """The lock of a file, held by another thread."""

    def __init__(self, folder: CacheFolder, file: Path) -> None:
        self.held, self.let_go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(folder, file))

    def _hold(self, folder: CacheFolder, file: Path) -> None:
        with folder.lock(file):
            self.held.set()
            self.let_go.wait()

    def __enter__(self) -> None:
        self.thread.start()
        assert self.held.wait(60)

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self.thread.join()


def test_a_second_holder_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, file = CacheFolder(tmp_path / "cache"), tmp_path / "cache" / "f.h5"
    got_it = threading.Event()

    def second() -> None:
        with folder.lock(file):
            got_it.set()

    waiting = threading.Thread(target=second)
    with _held_elsewhere(folder, file):
        with folder.lock(tmp_path / "cache" / "other.h5"):
            pass  # other files are free
        waiting.start()
        until(lambda: "another process is extracting" in caplog.text)
        assert not got_it.is_set()
    assert got_it.wait(60)
    waiting.join()
    assert caplog.text.count("another process is extracting") == 1


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    folder, file = CacheFolder(tmp_path), tmp_path / "f.h5"
    with pytest.raises(ZeroDivisionError), folder.lock(file):
        raise ZeroDivisionError
    with _held_elsewhere(folder, file):
        pass


def test_a_killed_holders_lock_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, file = CacheFolder(tmp_path), tmp_path / "f.h5"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom featx.cache import CacheFolder\n"
        "with CacheFolder(sys.argv[1]).lock(Path(sys.argv[2])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path, file], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        got_it = threading.Event()

        def second() -> None:
            with folder.lock(file):
                got_it.set()

        waiting = threading.Thread(target=second)
        waiting.start()
        until(lambda: "another process is extracting" in caplog.text)
        assert not got_it.is_set()
        holder.kill()
        assert got_it.wait(60)
        waiting.join()


# ----------------------------------------------------------------------------------------------------------- memo, room


def test_a_memo_comes_back(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    assert folder.read_memo("memo.json") == {}
    folder.write_memo("memo.json", {"ä": [1, None]})
    assert folder.read_memo("memo.json") == {"ä": [1, None]}
    folder.write_memo("memo.json", {})
    assert folder.read_memo("memo.json") == {} and names(folder.folder) == [".locks", "memo.json"]


def test_threads_may_write_one_memo(tmp_path: Path) -> None:
    """And what a killed process has left of one goes."""
    (tmp_path / ".memo.json.0123").write_text("{")
    folder = CacheFolder(tmp_path)
    threads = [threading.Thread(target=folder.write_memo, args=("memo.json", {"by": number})) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.read_memo("memo.json")["by"] in range(8) and names(tmp_path) == [".locks", "memo.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_an_unreadable_memo_is_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "memo.json").write_bytes(content)
    assert CacheFolder(tmp_path).read_memo("memo.json") == {}


def test_a_lack_of_room_is_said_beforehand(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    for folder in (tmp_path, tmp_path / "not" / "yet" / "there"):
        require_room(folder, free // 2)
        with pytest.raises(CacheError, match=r"no room .* are needed, .* are free.*`pooling=.avg.`"):
            require_room(folder, free * 2)
    assert names(tmp_path) == []
