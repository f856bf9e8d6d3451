"""Extraction by several workers: the same file, whatever becomes of them."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from conftest import picture, until

import featx
from featx.cache import load_features
from featx.errors import CacheError, DatasetError, ExtractionError, SettingError
from featx.extraction import Extraction, Recipe, extract
from featx.extraction import census as census_module
from featx.extraction import computation as computation_module
from featx.extraction import share as share_module
from featx.extraction import workers as workers_module
from featx.extraction.share import Outcome, PictureTask, Share, compute_as_worker
from featx.extraction.workers import Workers, WorkersLostError, split_share

Make = Callable[..., Path]
Run = Callable[..., Extraction]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(featx.__file__).parents[1]), str(Path(__file__).parent)]),
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Into ``tmp_path / "cache"``, the pixels themselves: workers that need no network library start sooner."""

    def extract_(dataset: Path, **options: Any) -> Extraction:
        return extract(dataset, **{"cache_dir": tmp_path / "cache", "backbone": "pixels", "size": 32, **options})

    return extract_


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this instant count as settled, so that their times are in the feature file."""
    monkeypatch.setattr(census_module, "RACY_NS", 0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 pictures and two files that are none. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("workers") / "data"
    for number in range(600):
        (root / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        picture(number % 3, number, (24, 20)).save(root / f"class{number % 3}" / f"{number:03}.png")
    (root / "class0" / "text.png").write_text("text")
    (root / "class2" / "empty.png").write_bytes(b"")
    return root


def content(done: Extraction) -> bytes:
    return Path(done.features_path).read_bytes()


# ------------------------------------------------------------------------------------------------------------ the words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", Workers()),
        (3, Workers("processes", 3)),
        ("16", Workers("processes", 16)),
        ("dask://here:8786", Workers("dask", 0, "tcp://here:8786")),
    ],
)
def test_workers_are_understood(text: str | int, expected: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "distributed", workers_module
    )  # any module: whether it is there is all that is asked
    assert Workers.parse(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "dask://", "dask://here", "http://here:80", "ray:10001"])
def test_what_is_no_worker_is_an_error(text: str, run: Run, dataset: Path) -> None:
    with pytest.raises(SettingError, match=r"`workers=.*expected a number from 1 on, gpus, dask://HOST:PORT or ray://"):
        run(dataset, workers=text)


@pytest.mark.parametrize(("kind", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, kind: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtractionError, match=rf"needs {package}: pip install '\.\[{kind}\]'"):
        Workers.parse(f"{kind}://127.0.0.1:8786")


def test_no_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SettingError, match="this machine has no NVIDIA GPU"):
        Workers.parse("gpus")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert Workers.parse("gpus") == Workers("gpus", 2)


# --------------------------------------------------------------------------------------------------------------- shares


def share_of(root: Path, folder: Path, n: int = 10, **changes: Any) -> Share:
    tasks = tuple(PictureTask(f"{number}.png", f"{number:032x}", (0,), None) for number in range(n))
    recipe = Recipe(backbone="pixels", size=32)
    spec = recipe.spec(recipe.trunk())
    share = Share(root, tasks, recipe, spec, (32, 32, 3), featx.Views(), folder / "x.partial", folder / "networks", {})
    return replace(share, **changes)


@pytest.mark.parametrize("workers", [1, 2, 7, 100])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000, 20_000])
@pytest.mark.parametrize("batch_size", [None, 1, 48])
def test_shares_are_whole_batches_and_all_of_it(tmp_path: Path, n: int, workers: int, batch_size: int | None) -> None:
    share = share_of(tmp_path, tmp_path, n, batch_size=batch_size)
    parts = split_share(share, workers)
    assert sum((part.pictures for part in parts), ()) == share.pictures
    assert all(len(part.pictures) % (batch_size or 32) == 0 for part in parts[:-1])
    most = workers_module.SHARE_ROWS[1] + (batch_size or 32)
    assert all(0 < part.rows <= most for part in parts)
    if n >= workers * (batch_size or 32):
        assert len(parts) >= min(workers, n // workers_module.SHARE_ROWS[0]), "everyone has something to do"


def test_a_share_and_what_became_of_it_can_be_sent(tmp_path: Path) -> None:
    share = share_of(tmp_path, tmp_path)
    assert pickle.loads(pickle.dumps(share)) == share
    outcome = Outcome(3, {"a": DatasetError("x")}, {"read": 1.0}, 2.0, "e", CacheError("y"), ["z"])  # type: ignore[dict-item]
    again = pickle.loads(pickle.dumps(outcome))
    assert str(again.error) == "y" and str(again.failures["a"]) == "x" and again.notes == ["z"]


@pytest.mark.parametrize("what", ["data set", "cache folder"])
def test_a_worker_that_does_not_see_the_files_says_so(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would find every picture unreadable."""
    monkeypatch.setattr(share_module.PROCESS, "is_prepared", True)
    elsewhere = tmp_path / "elsewhere"
    share = share_of(elsewhere, tmp_path) if what == "data set" else share_of(tmp_path, elsewhere)
    error = compute_as_worker(share).error
    assert isinstance(error, ExtractionError) and re.search(
        f"the {what} .*elsewhere is not to be seen by the worker", str(error)
    )


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    claim = (
        "from featx.extraction.share import PROCESS; from pathlib import Path\n"
        f"print(PROCESS._claim_gpu(('3', '5'), Path({str(tmp_path)!r})), flush=True); input()"
    )
    workers = []
    try:
        for _ in range(3):
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", claim], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
            said = workers[-1].stdout.readline() if workers[-1].stdout else ""
            if len(workers) < 3:
                assert said == ["3\n", "5\n"][len(workers) - 1]
        assert said == "" and "more workers than GPUs (3, 5)" in workers[-1].communicate()[1]
        workers[0].kill()
        workers[0].wait()
        assert filelock.FileLock(tmp_path / ".gpu-3.lock").acquire(timeout=0), "a killed worker's GPU is free again"
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


# ------------------------------------------------------------------------------------------------------------ processes


@pytest.mark.parametrize("workers", [2, 3])
def test_the_file_is_the_same_whatever_the_number_of_workers(
    run: Run, dataset: Path, tmp_path: Path, workers: int
) -> None:
    one = run(dataset, cache_dir=tmp_path / "one")
    seen: list[tuple[str, int, int]] = []
    several = run(dataset, workers=workers, progress=lambda *what: seen.append(what))
    assert content(several) == content(one)
    assert (several.listed, several.rows, several.quarantined, several.computed) == (602, 600, 2, 600)
    counts = [(done, total) for stage, done, total in seen if stage == "extracting"]
    assert counts[0] == (0, 602) and counts[-1] == (602, 602) and counts == sorted(counts) and len(counts) > 2
    assert not list((tmp_path / "cache").glob("*.partial")) and several.profile["decode"] > 0
    assert run(dataset, workers=workers).computed == 0


def test_a_network_gives_the_same_by_workers(make_dataset: Make, tmp_path: Path, tiny_backbone: str) -> None:
    root = make_dataset(each=30)
    options = {"backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 8, "views": featx.Views(3, flip=True)}
    one = extract(root, cache_dir=tmp_path / "one", **options)
    two = extract(root, cache_dir=tmp_path / "two", workers=2, **options)
    assert (two.computed, two.engine) == (180, one.engine) and two.spec == one.spec
    np.testing.assert_allclose(
        load_features(two.features_path).X(), load_features(one.features_path).X(), rtol=2e-3, atol=1e-4
    )


KILLS = """
import os, signal, sys
import featx.extraction.share as share_module
from pathlib import Path

real, dead = share_module.compute, Path(sys.argv[2]) / "dead"

def deadly(share, outcome, on_rows):
    '''Each process dies in its first share, half-way through, as long as there are deaths left.'''
    share_module.BLOCK_ROWS, share_module.BLOCK_SECONDS = 32, 0
    calls = []
    def dying():
        calls.append(1)
        if len(calls) == 3 and len(list(dead.iterdir())) < int(sys.argv[3]):
            (dead / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        on_rows()
    real(share, outcome, dying)

share_module.compute = deadly
"""


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_killed_workers_blocks_are_done_again(run: Run, dataset: Path, tmp_path: Path, deaths: int) -> None:
    program = tmp_path / "program.py"
    (tmp_path / "dead").mkdir()
    # Workers import this file by name, and with it the deadly computation
    (tmp_path / "deadly.py").write_text(KILLS)
    program.write_text(
        "import sys, json, featx.extraction.run, featx.extraction.workers\n"
        "def work(share):\n    import deadly\n    from featx.extraction.share import compute_as_worker\n"
        "    return compute_as_worker(share)\n"
        "if __name__ == '__main__':\n"
        "    featx.extraction.workers.compute_as_worker, featx.extraction.census.RACY_NS = work, 0\n"
        "    cache = sys.argv[2] + '/cache'\n"
        "    done = featx.extract(sys.argv[1], cache_dir=cache, backbone='pixels', size=32, workers=2)\n"
        "    print(json.dumps([done.features_path, done.computed, done.rows, done.quarantined]))\n"
    )
    command = [sys.executable, program, dataset, tmp_path, str(deaths)]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    features, computed, rows, quarantined = json.loads(done.stdout)
    assert (computed, rows, quarantined) == (600, 600, 2)
    assert len(list((tmp_path / "dead").iterdir())) == deaths and "workers were lost" in done.stderr
    assert Path(features).read_bytes() == content(run(dataset, cache_dir=tmp_path / "one"))


def test_it_gives_up_when_workers_only_die(run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def dies(_share: Share, _workers: Workers) -> Iterator[Outcome]:
        tried.append(1)
        raise WorkersLostError("workers were lost: BrokenPool: killed")
        yield

    monkeypatch.setattr(computation_module, "spread", dies)
    with pytest.raises(ExtractionError, match="workers were lost"):
        run(dataset, workers=2)
    assert len(tried) == computation_module.MOST_LOSSES


def test_what_a_worker_says_is_heard_once(
    run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def here(share: Share, _workers: Workers) -> Iterator[Outcome]:
        for part in split_share(share, 4):
            outcome = compute_as_worker(part)
            outcome.notes.append("Keras computes instead of OpenVINO")
            yield outcome

    monkeypatch.setattr(share_module.PROCESS, "is_prepared", True)
    monkeypatch.setattr(computation_module, "spread", here)
    assert run(dataset, workers=2).computed == 600
    assert caplog.text.count("Keras computes instead") == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"strict": True}, DatasetError, "`strict`: class[02]/(text|empty).png cannot be read"),
        ({"backbone": "mobilenetv2", "weights": "none.weights.h5"}, featx.errors.WeightsError, "none.weights.h5"),
    ],
)
def test_errors_of_workers_are_the_errors(
    run: Run, dataset: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(dataset, workers=2, **options)


def test_workers_end_with_the_one_they_work_for(dataset: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time, os, featx.extraction.run, featx.extraction.workers\n"
        "def work(share):\n    open(sys.argv[2] + f'/{os.getpid()}.pid', 'w').close()\n"
        "    from featx.extraction.share import PROCESS\n    PROCESS.prepare(share)\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    featx.extraction.workers.compute_as_worker = work\n"
        "    featx.extract(sys.argv[1], cache_dir=sys.argv[2] + '/cache', backbone='pixels', size=32, workers=2)\n"
    )
    (tmp_path / "pids").mkdir()
    with subprocess.Popen([sys.executable, program, dataset, tmp_path / "pids"], env=ENVIRONMENT) as process:
        until(lambda: len(list((tmp_path / "pids").glob("*.pid"))) == 2)
        process.send_signal(signal.SIGKILL)
    pids = [int(file.stem) for file in (tmp_path / "pids").glob("*.pid")]
    until(lambda: not any(_alive(pid) for pid in pids))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------------------- clusters


@contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A scheduler and workers of one thread on this machine: its address, and their processes."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("Dask is not installed")
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    if importlib.util.find_spec("distributed.cli") is None:
        pytest.skip("this Dask has no command line")
    processes = []

    def start(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    try:
        scheduler = start(*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = _address(scheduler)
        for _ in range(workers):
            worker = start(
                sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--host", "127.0.0.1",
                "--no-dashboard", "--no-nanny", "--local-directory", str(folder),
            )  # fmt: skip
            threading.Thread(target=worker.communicate, daemon=True).start()
        threading.Thread(target=scheduler.communicate, daemon=True).start()
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address.replace("tcp", "dask"), processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def _address(scheduler: subprocess.Popen[str]) -> str:
    assert scheduler.stderr is not None
    for line in scheduler.stderr:
        found = re.search(r"Scheduler at:\s+(tcp://127\.0\.0\.1:\d+)", line)
        if found:
            return found[1]
    raise AssertionError("the scheduler did not start")


def test_two_dask_workers(run: Run, dataset: Path, tmp_path: Path) -> None:
    one = run(dataset, cache_dir=tmp_path / "one")
    with dask_cluster(tmp_path) as (address, workers):
        done = run(dataset, workers=address)
        assert content(done) == content(one) and (done.computed, done.quarantined) == (600, 2)
        workers[0].kill()
        workers[0].wait()
        again = run(dataset, workers=address, size=24)
        assert again.computed == 600, "the other one does it all"
    with pytest.raises(ExtractionError, match="no Dask scheduler answers at tcp://127.0.0.1"):
        run(dataset, workers=address, size=20)


def patiently(extraction: Callable[[], Extraction]) -> Extraction:
    """Ray gives up on a server of its own that takes half a minute to start, as it may on a busy machine."""
    for _ in range(4):
        try:
            return extraction()
        except ExtractionError as error:
            if "no Ray cluster answers" not in str(error):
                raise
    return extraction()


def test_a_ray_cluster(run: Run, dataset: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    start = [
        "start",
        "--head",
        "--num-cpus=2",
        "--port=6379",
        "--ray-client-server-port=20001",
        "--include-dashboard=false",
    ]
    environment = {**ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0"}
    one = run(dataset, cache_dir=tmp_path / "one")
    subprocess.run([*ray, *start, "--node-ip-address=127.0.0.1"], env=environment, check=True, capture_output=True)
    try:
        done = patiently(lambda: run(dataset, workers="ray://127.0.0.1:20001"))
        assert content(done) == content(one) and (done.computed, done.quarantined) == (600, 2)
    finally:
        subprocess.run([*ray, "stop", "--force"], env=environment, check=True, capture_output=True)
