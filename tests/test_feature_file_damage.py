"""Feature files that are damaged, altered, truncated or cannot be written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import disk_of
from shared_cache import ENVIRONMENT, SPEC, damage, flip, names, tables, values, write

from featx.cache import CacheFolder, Features, MissingRowsError, Place, layout, load_features, remove, write_features
from featx.errors import CacheError, CorruptCacheError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    with disk_of("256k", tmp_path / "disk") as folder:
        yield folder


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
