"""Extractions that survive: damaged files, Ctrl-C, kills at every instant, several at once, full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture, until
from shared_extraction import ENVIRONMENT, FAKE, Make, Run, by_hand, damage, interrupt, on_call, values

from featx.cache import CacheFolder, Features, load_features, write_features
from featx.errors import CacheError
from featx.extraction import assembly as assembly_module
from featx.extraction import share as share_module

pytest_plugins = ["shared_extraction"]


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_damaged_row_alone_is_computed_again(
    make_dataset: Make, run: Run, counted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """openmc_data#33: a resume that tests existence, not integrity."""
    root = make_dataset()
    first = run(root, batch_size=1)
    whole = values(first)
    damage(first.features_path, 3)
    assert Features(first.features_path).damaged_rows() == [3]
    done = run(root, batch_size=1)
    assert (done.computed, done.rows) == (1, 16) and len(counted) == 17
    assert done.features_path == first.features_path and np.array_equal(values(done), whole)
    assert "1 rows are damaged and will be replaced" in caplog.text
    assert not list(Path(done.features_path).parent.glob("*.partial"))
    assert run(root, batch_size=1).computed == 0


def test_a_damaged_row_with_a_whole_duplicate_is_copied(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    shutil.copy(root / "lying" / "000.png", root / "standing" / "copy.png")
    first = run(root)
    whole = values(first)
    damage(first.features_path, 0)
    done = run(root)
    assert done.computed == 0 and np.array_equal(values(done), whole)


def test_a_damaged_row_is_not_copied_into_another_file(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    first = run(root)
    whole = values(first)
    damage(first.features_path, 2)
    (root / "standing" / "002.png").unlink()
    done = run(root)
    assert (done.rows, done.computed) == (5, 1) and np.array_equal(values(done), whole[:5])


def test_a_truncated_file_is_made_anew(
    make_dataset: Make, run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root = make_dataset()
    first = run(root)
    whole, size = values(first), Path(first.features_path).stat().st_size
    for length in (0, 100, size // 2, size - 1):
        caplog.clear()
        os.truncate(first.features_path, length)
        done = run(root)
        assert (done.computed, done.rows) == (16, 16) and np.array_equal(values(done), whole)
        assert "extract again" in caplog.text and Path(first.features_path).name in caplog.text


def test_a_truncated_file_is_made_from_others(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset()
    first = run(root)
    whole = values(first)
    make_dataset(each=1, first=90)
    run(root)
    for name in ("lying/090.png", "standing/090.png"):
        (root / name).unlink()
    os.truncate(first.features_path, 1000)
    done = run(root)
    assert done.features_path == first.features_path and done.computed == 0 and np.array_equal(values(done), whole)


def test_a_damaged_block_is_not_reused(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_dataset()
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))
    partial = interrupt(run, root, 8, monkeypatch)
    blocks = sorted(partial.glob("block-*.h5"))
    assert len(blocks) == 4
    damage(blocks[1], 1)
    done = run(root, batch_size=1)
    assert done.computed == 8 + 1 and np.array_equal(values(done), undisturbed)


def test_a_truncated_block_is_warned_of_and_computed_again(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root = make_dataset()
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))
    partial = interrupt(run, root, 8, monkeypatch)
    (block,) = partial.glob("block-*-00002.h5")
    os.truncate(block, 700)
    done = run(root, batch_size=1)
    assert done.computed == 8 + 2 and np.array_equal(values(done), undisturbed)
    assert block.name in caplog.text and not partial.exists()


def test_rows_moved_in_a_file_meanwhile_are_not_mixed_up(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tiny_backbone: str
) -> None:
    """Another process writes the source anew, in other order, between finding a row and copying it."""
    root = make_dataset(each=3)
    first = run(root)
    picture(0, 40).save(root / "lying" / "040.png")
    real = assembly_module.gather

    def late(*arguments: Any) -> Any:
        old = Features(first.features_path)
        if old.paths[0] == "lying/000.png":
            turned = {"ids": old.ids[::-1], "views": old.views, "paths": old.paths[::-1]}
            write_features(old.path, [old.stored()[::-1]], old.shape, spec=old.spec, tables=turned)
        return real(*arguments)

    monkeypatch.setattr(assembly_module, "gather", late)
    done = load_features(run(root).features_path)
    np.testing.assert_allclose(done.X(), by_hand(tiny_backbone, root, done.paths), rtol=2e-3, atol=1e-3)


def test_blocks_that_vanish_meanwhile_are_found_where_they_went(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their extraction, in another process, has ended and tidied up."""
    root = make_dataset(each=4)
    interrupt(run, root, 5, monkeypatch)
    more = shutil.copytree(root, tmp_path / "more")
    picture(0, 40).save(more / "lying" / "040.png")
    real, seen = assembly_module.gather, []

    def late(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 1:
            run(root)
        return real(*arguments)

    monkeypatch.setattr(assembly_module, "gather", late)
    done = run(more)
    assert done.rows == 9 and len(seen) >= 3 and not list((tmp_path / "cache").glob("*.partial"))
    assert done.computed == 4, "the rest and the new one, once"
    assert Features(done.features_path).damaged_rows() == []


# ------------------------------------------------------------------------------------------------- interrupts and kills


def test_ctrl_c_keeps_finished_rows_and_says_so(
    make_dataset: Make, run: Run, counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_dataset()
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        on_call(patch, 7, ctrl_c)
        with pytest.raises(KeyboardInterrupt, match="6 of 16 pictures are kept in .*; run the same command again"):
            run(root, batch_size=1)
    assert CacheFolder(tmp_path / "cache").files() == []
    before = len(counted)
    assert before in (16 + 6, 16 + 7)  # the next one may have been under way
    done = run(root, batch_size=1)
    assert (done.computed, done.reused) == (10, 6) and len(counted) == before + 10
    assert np.array_equal(values(done), undisturbed)
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_blocks_of_an_interrupted_run_serve_another_listing(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    interrupt(run, root, 6, monkeypatch)
    picture(0, 40).save(root / "lying" / "040.png")
    assert run(root, batch_size=1).computed == 16 - 6 + 1


# Every place where a process can die with another state on the disk: before and after each call of the trunk, each sync
# and each rename, and while the blocks are deleted. Each in a forked process; then an undisturbed one.
EVERY_INSTANT = """
featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 4, 0

def forked(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

def dying_at(moment):
    count = [0]
    def deadly(function):
        def call(*arguments, **options):
            for done in (False, True):
                count[0] += 1
                if count[0] == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not done:
                    result = function(*arguments, **options)
            return result
        return call
    Fake.__call__ = deadly(Fake.__call__)
    os.fsync, os.replace, os.unlink = deadly(os.fsync), deadly(os.replace), deadly(os.unlink)
    featx.cache.folder.remove = deadly(featx.cache.folder.remove)
    extract(f"{cache}/{moment}", batch_size=2)

def undisturbed(name, file):
    done = extract(f"{cache}/{name}", batch_size=2)
    features = Features(done.features_path)
    found = {"computed": done.computed, "listed": done.listed, "rows": done.rows,
             "paths": features.paths.tolist(), "X": features.X().tolist()}
    with open(file, "w") as out:
        json.dump(found, out)

def kept(name):
    '''Rows that lie in whole files.'''
    from featx.cache import CacheFolder
    return len({key for features in CacheFolder(f"{cache}/{name}").iter_features() for key in features.row_keys()})

def count_kept(name, file):
    with open(file, "w") as out:
        json.dump(kept(name), out)

os.makedirs(cache)
assert forked(lambda: undisturbed("reference", f"{cache}/reference.json")) == 0
for moment in range(1, 500):
    status = forked(lambda: dying_at(moment))
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    assert forked(lambda: count_kept(moment, f"{cache}/{moment}.kept")) == 0
    assert forked(lambda: undisturbed(moment, f"{cache}/{moment}.json")) == 0, moment
print(moment - 1)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with, for each instant of being killed, the cache and what the next run said; and the instants."""
    folder = tmp_path_factory.mktemp("killed")
    for number in range(12):
        (folder / "data" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(number % 3, number).save(folder / "data" / f"class{number % 2}" / f"{number:02}.png")
    command = [sys.executable, "-c", FAKE + EVERY_INSTANT, folder / "data", folder / "caches"]
    environment = {**ENVIRONMENT, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "caches", int(done.stdout)


def test_killed_at_any_instant_and_run_again(killed: tuple[Path, int]) -> None:
    """The same features, and no row that lay in a whole block is computed again."""
    caches, instants = killed
    reference = json.loads((caches / "reference.json").read_text())
    assert instants >= 40 and reference["computed"] == 12
    computed = []
    for moment in range(1, instants + 1):
        done = json.loads((caches / f"{moment}.json").read_text())
        assert (done["listed"], done["rows"]) == (12, 12), moment
        assert (done["paths"], done["X"]) == (reference["paths"], reference["X"]), moment
        assert done["computed"] == 12 - json.loads((caches / f"{moment}.kept").read_text()), moment
        computed.append(done["computed"])
    assert set(computed) == {12, 8, 4, 0}
    # A block is written while the next is computed, so two runs may be one block apart at an instant, but no more
    later = [max(computed[moment:]) for moment in range(len(computed))]
    assert all(most - now <= 4 for now, most in zip(computed, later, strict=True))


def test_a_killed_run_leaves_no_litter(killed: tuple[Path, int]) -> None:
    """An unfinished feature file may be as large as the finished one; the next run must not leave it lying."""
    caches, instants = killed
    litter = {
        moment: left
        for moment in range(1, instants + 1)
        if (
            left := [p.name for p in (caches / str(moment)).rglob("*") if p.name.startswith(".") and p.name != ".locks"]
        )
    }
    assert litter == {}


def test_killed_in_the_middle_with_the_real_trunk(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path
) -> None:
    root = make_dataset(each=20)
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))

    def blocks() -> int:
        return len(list((tmp_path / "cache").glob("*.partial/block-*")))

    script = (
        "import sys, time\nimport featx\nimport featx.extraction.share\nfrom featx.backbones import KerasTrunk\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 3, 0\n"
        "real, calls = KerasTrunk.__call__, []\n"
        "def held(self, images):\n    calls.append(1)\n    len(calls) > 8 and time.sleep(600)\n"
        "    return real(self, images)\nKerasTrunk.__call__ = held\n"
        "featx.extract(sys.argv[1], cache_dir=sys.argv[2], backbone=sys.argv[3], preprocess='rescale', "
        "batch_size=1)"
    )
    for kept in (2, 4):
        command = [sys.executable, "-c", script, root, tmp_path / "cache", tiny_backbone]
        with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
            try:
                until(lambda kept=kept: blocks() >= kept or process.poll() is not None)
            finally:
                process.kill()
        assert blocks() == kept
    done = run(root, batch_size=1)
    assert done.computed == 40 - 3 * kept and np.array_equal(values(done), undisturbed)


def test_an_interrupt_signal_ends_it_soon_and_keeps_rows(make_dataset: Make, tmp_path: Path) -> None:
    """The pictures from the sixth on would take half a minute; they are left for the next run."""
    root = make_dataset(each=20)
    body = (
        "real, calls = Fake.__call__, []\n"
        "def call(self, images):\n    calls.append(1)\n    print(len(calls), flush=True)\n"
        "    len(calls) > 5 and sys.argv[3] and time.sleep(1)\n    return real(self, images)\n"
        "Fake.__call__ = call\nprint('computed', extract(cache).computed)"
    )
    command = [sys.executable, "-c", FAKE + body, root, tmp_path / "cache"]
    with subprocess.Popen(
        [*command, "slow"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and "6\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode in (-signal.SIGINT, 130) and "run the same command again" in said
    again = subprocess.run([*command, ""], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert 0 < int(again.stdout.split()[-1]) <= 40 - 4


def test_two_extractions_at_once(make_dataset: Make, tmp_path: Path) -> None:
    """lhotse#112: the second waits for the first and finds its work done."""
    root = make_dataset(each=10)
    body = (
        "Fake.seconds = 0.03\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 3, 0\ndone = extract(cache)\n"
        "print(json.dumps([done.features_path, done.computed, done.rows, done.quarantined]))"
    )
    command = [sys.executable, "-c", FAKE + body, root, tmp_path / "cache"]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert ends[0][0] == ends[1][0] and sorted(end[1] for end in ends) == [0, 20]
    assert all(end[2:] == [20, 0] for end in ends)
    features = Features(ends[0][0])
    assert len(features) == 20 and features.damaged_rows() == []
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_two_data_sets_at_once_in_one_folder(make_dataset: Make, tmp_path: Path) -> None:
    """Half of their pictures are the same; blocks of one may go while the other copies from them."""
    roots = [make_dataset(each=10), make_dataset(each=10, name="others", first=5)]
    body = (
        "Fake.seconds = 0.01\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 1, 0\ndone = extract(cache)\n"
        "features = Features(done.features_path)\nprint(json.dumps([features.paths.tolist(), features.X().tolist()]))"
    )

    def start(root: Path, cache: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FAKE + body, root, tmp_path / cache]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)

    both = [start(root, "cache") for root in roots]
    together = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    alone = [json.loads(start(root, root.name).communicate(timeout=60)[0]) for root in roots]
    assert [len(paths) for paths, _ in together] == [20, 20] and together == alone
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_few_open_files_are_enough(make_dataset: Make, tmp_path: Path) -> None:
    """pytorch/vision#539: too many open files."""
    root = make_dataset(each=60)
    body = (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 1, 0\nprint(extract(cache).computed)"
    )
    command = [sys.executable, "-c", FAKE + body, root, tmp_path / "cache"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "120\n", done.stderr[-600:]


# ------------------------------------------------------------------------------------------------------------- the disk


def test_a_disk_without_room_is_said_before_anything_is_computed(
    make_dataset: Make, run: Run, counted: list[int], small_disk: Path
) -> None:
    root = make_dataset()
    (small_disk / "other").write_bytes(bytes(2**20 - 8192))
    with pytest.raises(CacheError, match="no room .*`cache_dir`"):
        run(root, cache_dir=small_disk / "cache")
    assert counted == []


def test_a_disk_that_fills_up_keeps_finished_blocks(
    make_dataset: Make, run: Run, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = make_dataset(), small_disk / "other"
    monkeypatch.setattr(share_module, "BLOCK_ROWS", 2)
    monkeypatch.setattr(share_module, "BLOCK_SECONDS", 0)
    with monkeypatch.context() as patch:
        on_call(patch, 9, lambda: other.write_bytes(bytes(shutil.disk_usage(small_disk).free)))
        with pytest.raises(CacheError, match="no room .*kept"):
            run(root, cache_dir=small_disk / "cache", batch_size=1)
    other.unlink()
    done = run(root, cache_dir=small_disk / "cache", batch_size=1)
    assert done.rows == 16 and done.computed in (8, 10, 12), "two blocks may have been under way when it filled up"


def test_a_finished_extraction_can_be_used_from_a_read_only_disk(
    make_dataset: Make, run: Run, small_disk: Path
) -> None:
    root = make_dataset(each=2)
    first = run(root, cache_dir=small_disk / "cache")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    second = run(root, cache_dir=small_disk / "cache")
    assert second.computed == 0 and second.features_path == first.features_path
    picture(0, 30).save(root / "lying" / "new.png")
    with pytest.raises(CacheError, match="cannot be written"):
        run(root, cache_dir=small_disk / "cache")
