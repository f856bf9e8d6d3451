"""The cache folder: rows found and copied, names, what is superseded, locks, memos."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import until
from shared_cache import ENVIRONMENT, SPEC, SPEC32, age, damage, names, tables, values, write

from featx.cache import (
    CacheFolder,
    MissingRowsError,
    Place,
    gather,
    layout,
    remove,
    require_room,
    size_on_disk,
    write_features,
)
from featx.errors import CacheError

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
