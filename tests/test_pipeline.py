"""The pipeline: threads that work ahead, batches for the trunk, devices that run full, features as they are stored."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import picture

from featx._internal.hashing import content_id
from featx._internal.parallel import in_threads
from featx.errors import FileReadError, PictureError
from featx.extraction import Recipe, features_of, load_file
from featx.extraction.pipeline import Stopwatch, as_stored

PATIENCE = 60  # seconds until a test that waits for another thread fails


def wait_for(event: threading.Event) -> None:
    assert event.wait(PATIENCE), "what was waited for never came to pass"


# ------------------------------------------------------------------------------------------------------------- threads


def test_results_come_in_the_order_of_the_jobs() -> None:
    """Each job waits until the next one is done, so they end in the reverse order."""
    done = [threading.Event() for _ in range(5)]
    done[4].set()

    def work(job: int) -> int:
        if job < 4:
            wait_for(done[job + 1])
        done[job].set()
        return 10 * job

    assert list(in_threads(range(5), work, ahead=5, threads=5)) == [(job, 10 * job) for job in range(5)]


def test_a_picture_error_is_a_result_among_the_others() -> None:
    def work(job: int) -> int:
        if job % 2:
            raise FileReadError(f"job {job}")
        return job

    results = [result for _, result in in_threads(range(4), work, threads=2)]
    assert (results[0], results[2]) == (0, 2)
    assert all(isinstance(result, FileReadError) for result in results[1::2])
    assert [str(result) for result in results[1::2]] == ["job 1", "job 3"]


def test_any_other_error_comes_out_when_its_turn_has_come() -> None:
    def work(job: int) -> int:
        if job == 2:
            raise ZeroDivisionError
        return job

    results = in_threads(range(100), work, ahead=4, threads=2)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_no_more_jobs_are_drawn_ahead_than_told(ahead: int) -> None:
    drawn: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(20):
            drawn.append(job)
            yield job

    for number, _ in enumerate(in_threads(jobs(), lambda job: job, ahead, threads=2)):
        assert len(drawn) == min(20, number + ahead)


def test_as_many_threads_work_as_told_and_no_more() -> None:
    meeting, lock = threading.Barrier(3), threading.Lock()
    busy, most = [0], [0]

    def work(_job: int) -> None:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        meeting.wait(PATIENCE)  # broken, and so an error, unless three are there together
        with lock:
            busy[0] -= 1

    list(in_threads(range(12), work, ahead=12, threads=3))
    assert most == [3]


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a pool of threads has been told to end and has thrown away what nobody has begun."""
    told, real = threading.Event(), ThreadPoolExecutor.shutdown

    def shutdown(self: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        real(self, wait=False, cancel_futures=cancel_futures)
        told.set()
        real(self, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    return told


def test_closed_early_it_begins_nothing_more_and_its_threads_end(closing: threading.Event) -> None:
    begun, second, before = [], threading.Event(), threading.active_count()

    def work(job: int) -> int:
        begun.append(job)
        if job == 1:
            second.set()
            wait_for(closing)
        return job

    results = in_threads(range(100), work, ahead=50, threads=1)
    assert next(results) == (0, 0)
    wait_for(second)
    results.close()
    assert begun == [0, 1] and threading.active_count() == before


def test_an_error_of_the_jobs_ends_the_threads_too() -> None:
    before = threading.active_count()

    def jobs() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_threads(jobs(), lambda job: job, threads=4))
    assert threading.active_count() == before


# ------------------------------------------------------------------------------------------------------------- batches


class ResourceExhaustedError(Exception):
    """As TensorFlow calls it."""


class Means:
    """A trunk without a network: the mean of each picture. It notes how many pictures each call has, and what is left
    of a batch that was not filled."""

    def __init__(self, fits: int = 1000, error: Exception | None = None, lanes: int = 1) -> None:
        self.info = SimpleNamespace(size=4, batch_size=8, feature_shape=(1,), lanes=lanes)
        self.fits = fits
        self.error = error or ResourceExhaustedError("OOM")
        self.calls: list[int] = []
        self.images: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls.append(len(images))
        if len(images) > self.fits:
            raise self.error
        self.images.append(images.copy())
        return images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None]


def run_trunk(jobs: Any, load: Any, trunk: Any, batch_size: int | None, failures: dict[Any, PictureError]) -> Any:
    """Jobs and features of each batch, where each job gives one image."""
    for batch in features_of(jobs, lambda job: load(job)[None], trunk, "float32", failures, batch_size=batch_size):
        yield batch.jobs, batch.features


def run_trunk_on_views(
    jobs: Any, load: Any, trunk: Any, batch_size: int, failures: Any, views: int = 1, **options: Any
) -> Any:
    """Jobs with the numbers of their images, and features, of each batch."""
    settings = {"batch_size": batch_size, "images_per_job": views, **options}
    for batch in features_of(jobs, load, trunk, "float32", failures, **settings):
        yield list(zip(batch.jobs, batch.numbers, strict=True)), batch.features


def gray(job: int) -> np.ndarray:
    """A picture whose mean is the job's number."""
    return np.full((4, 4, 3), job, np.uint8)


def computed(batches: Iterator[tuple[list[Any], np.ndarray]]) -> tuple[list[Any], list[float]]:
    """All jobs and all features, a row each."""
    jobs, features = [], []
    for some, rows in batches:
        assert rows.shape == (len(some), 1) and rows.dtype == np.float32
        jobs += some
        features += rows[:, 0].tolist()
    return jobs, features


def test_each_job_gets_its_features_in_batches_of_one_size() -> None:
    trunk = Means()
    batches = list(run_trunk(range(1, 21), gray, trunk, 8, {}))
    assert [len(jobs) for jobs, _ in batches] == [8, 8, 4]
    assert computed(iter(batches)) == (list(range(1, 21)), [float(job) for job in range(1, 21)])
    assert trunk.calls == [8, 8, 8] and not trunk.images[2][4:].any(), "the last one is filled up with black"


def test_full_batches_are_followed_by_no_empty_one() -> None:
    trunk = Means()
    assert len(list(run_trunk(range(16), gray, trunk, 8, {}))) == 2 == len(trunk.calls)


def test_the_batch_size_is_the_trunks_if_none_is_given() -> None:
    trunk = Means()
    assert len(computed(run_trunk(range(9), gray, trunk, None, {}))[0]) == 9
    assert trunk.calls == [8, 8]


def test_pictures_that_fail_leave_no_gap() -> None:
    trunk, failures = Means(), {}

    def load(job: int) -> np.ndarray:
        if job % 3 == 0:
            raise PictureError(f"job {job}")
        return gray(job)

    jobs, features = computed(run_trunk(range(12), load, trunk, 4, failures))
    assert jobs == features == [1, 2, 4, 5, 7, 8, 10, 11] and trunk.calls == [4, 4]
    assert {job: str(error) for job, error in failures.items()} == {job: f"job {job}" for job in (0, 3, 6, 9)}


@pytest.mark.parametrize("jobs", [0, 5])
def test_without_pictures_the_trunk_is_not_called(jobs: int) -> None:
    trunk, failures = Means(), {}

    def load(job: int) -> np.ndarray:
        raise PictureError("bad")

    assert list(run_trunk(range(jobs), load, trunk, 4, failures)) == []
    assert trunk.calls == [] and len(failures) == jobs


def test_views_of_a_picture_follow_each_other_across_batches() -> None:
    loaded: list[int] = []

    def load(job: int) -> np.ndarray:
        loaded.append(job)
        return np.stack([gray(10 * job + view) for view in range(job)])

    trunk = Means()
    keys, features = computed(run_trunk_on_views([3, 1, 4], load, trunk, 3, {}, views=4))
    assert keys == [(3, 0), (3, 1), (3, 2), (1, 0), (4, 0), (4, 1), (4, 2), (4, 3)]
    assert features == [30, 31, 32, 10, 40, 41, 42, 43]
    assert trunk.calls == [3, 3, 3] and sorted(loaded) == [1, 3, 4], "each is decoded once"


@pytest.mark.parametrize(("views", "ahead"), [(1, 16), (4, 4), (100, 2)])
def test_the_more_views_the_fewer_pictures_wait(views: int, ahead: int) -> None:
    """A batch of 16 and those that are loaded meanwhile: of 16 pictures with a view each, of 4 with four."""
    drawn: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            drawn.append(job)
            yield job

    def load(job: int) -> np.ndarray:
        return np.stack([gray(0)] * views)

    batches = run_trunk_on_views(jobs(), load, Means(), 16, {}, views, threads=1)
    next(batches)
    in_batches = -(-2 * 16 // views)  # one that is computed and one that waits for it
    assert len(drawn) <= in_batches + ahead
    batches.close()


# --------------------------------------------------------------------------------------------------------------- lanes


class Lanes(Means):
    """Notes how many calls are under way at once; the first so many wait for each other."""

    def __init__(self, lanes: int) -> None:
        super().__init__(lanes=lanes)
        self.meeting, self.lock, self.busy, self.most = threading.Barrier(lanes), threading.Lock(), 0, 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        self.meeting.wait(PATIENCE)
        with self.lock:
            features = super().__call__(images)
            self.busy -= 1
        return features


@pytest.mark.parametrize("lanes", [1, 2])
def test_as_many_batches_are_computed_at_once_as_the_trunk_has_lanes(lanes: int) -> None:
    trunk = Lanes(lanes)
    jobs, features = computed(run_trunk(range(32), gray, trunk, 4, {}))
    assert jobs == features == list(range(32)) and len(trunk.calls) == 8
    assert trunk.most == lanes


def test_pictures_are_loaded_while_the_trunk_is_at_work() -> None:
    """The first batch is done only when a picture of the second has been loaded."""
    later = threading.Event()

    class Waiting(Means):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            wait_for(later)
            return super().__call__(images)

    def load(job: int) -> np.ndarray:
        if job >= 4:
            later.set()
        return gray(job)

    assert computed(run_trunk(range(8), load, Waiting(), 4, {}))[0] == list(range(8))


# ------------------------------------------------------------------------------------------------ devices that run full


@pytest.mark.parametrize(
    ("fits", "calls"),
    [
        (10, [10, 10]),
        (5, [10, 5, 5, 5, 5]),
        (4, [10, 5, 3, 3, 3, 3, 3, 3, 3, 3]),
        (1, [10, 5, 3, 2, *[1] * 20]),
    ],
)
def test_a_full_device_gets_half_as_many_at_a_time_from_then_on(
    fits: int, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    trunk = Means(fits)
    with caplog.at_level(logging.WARNING):
        jobs, features = computed(run_trunk(range(20), gray, trunk, 10, {}))
    assert jobs == features == list(range(20))
    assert trunk.calls == calls
    assert caplog.text.count("the device has not memory enough for the batch") == len(set(calls)) - 1


def test_a_device_that_is_full_with_one_picture_is_an_error() -> None:
    trunk = Means(fits=0)
    with pytest.raises(ResourceExhaustedError):
        list(run_trunk(range(4), gray, trunk, 4, {}))
    assert trunk.calls == [4, 2, 1]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        type("OutOfMemoryError", (Exception,), {})("8 bytes"),
    ],
    ids=["jax", "torch", "its class"],
)
def test_every_library_is_understood(error: Exception) -> None:
    trunk = Means(2, error)
    assert computed(run_trunk(range(4), gray, trunk, 4, {}))[0] == [0, 1, 2, 3]
    assert trunk.calls == [4, 2, 2]


@pytest.mark.parametrize("error", [RuntimeError("bug"), PictureError("no trunk raises that")])
def test_any_other_error_of_the_trunk_comes_out_at_once(error: Exception) -> None:
    trunk = Means(0, error)
    with pytest.raises(type(error), match=str(error)):
        list(run_trunk(range(20), gray, trunk, 20, {}))
    assert trunk.calls == [20]


def test_an_error_of_loading_that_is_no_pictures_fault_comes_out() -> None:
    def load(job: int) -> np.ndarray:
        raise ZeroDivisionError

    failures: dict[int, PictureError] = {}
    with pytest.raises(ZeroDivisionError):
        list(run_trunk(range(4), load, Means(), 2, failures))
    assert failures == {}


# --------------------------------------------------------------------------------------------------- what a file takes


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_that_fit_are_stored_as_they_are(dtype: str) -> None:
    features = np.array([[0.1, -3.0], [65504.0, 1e-5]], np.float32)
    before = features.copy()
    stored, wrong = as_stored(features, dtype)
    assert wrong == {} and stored.dtype == dtype
    np.testing.assert_array_equal(stored, before.astype(dtype))
    np.testing.assert_array_equal(features, before)


def test_what_is_out_of_float16s_range_is_told_by_row_with_the_way_out() -> None:
    features = np.array([[1, 2], [3, -7e4], [5, 6], [65520, 8]], np.float32)
    stored, wrong = as_stored(features, "float16")
    assert wrong == {
        1: 'a feature of 7e+04 is out of float16\'s range; extract with `dtype="float32"`',
        3: 'a feature of 6.55e+04 is out of float16\'s range; extract with `dtype="float32"`',
    }
    np.testing.assert_array_equal(stored[[0, 2]], features[[0, 2]].astype(np.float16))
    assert as_stored(features, "float32")[1] == {}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_told_as_such(value: float, dtype: str) -> None:
    features = np.zeros((3, 2, 2, 1), np.float32)
    features[1, 0, 1] = value
    assert as_stored(features, dtype)[1] == {1: "the trunk gave values that are not numbers; are its weights sound?"}
    features[2] = 1e6  # an overflow beside it hides nothing
    wrong = as_stored(features, dtype)[1]
    assert "not numbers" in wrong[1] and (2 in wrong) == (dtype == "float16")


# --------------------------------------------------------------------------------------------------------- one picture


def test_a_file_is_read_decoded_and_resized(tmp_path: Path) -> None:
    picture(0, 1, (32, 32)).save(tmp_path / "a.png")
    expected, recipe = np.asarray(picture(0, 1, (32, 32))), Recipe(backbone="pixels", size=32)
    data = (tmp_path / "a.png").read_bytes()
    for file in (tmp_path / "a.png", str(tmp_path / "a.png"), data):
        np.testing.assert_array_equal(load_file(file, 32, recipe, content_id(data)), expected)
    assert load_file(data, 8, recipe).shape == (8, 8, 3)


def test_a_file_that_has_changed_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    picture(0, 1).save(tmp_path / "a.png")
    with pytest.raises(FileReadError, match="was changed since featx last looked; extract again"):
        load_file(tmp_path / "a.png", 32, Recipe(backbone="pixels", size=32), content_id(b"before"))


# --------------------------------------------------------------------------------------------------------------- time


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when told."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def tick(seconds: float) -> None:
        now[0] += seconds

    return tick


def test_a_stopwatch_adds_up_what_each_stage_takes(ticking: Callable[[float], None]) -> None:
    watch = Stopwatch()
    for seconds in (1.0, 2.0):
        with watch("decode"):
            ticking(seconds)
        ticking(10.0)  # counts nowhere
    with watch("write"), watch("read"):
        ticking(4.0)
    with pytest.raises(ZeroDivisionError), watch("trunk"):
        ticking(8.0)
        raise ZeroDivisionError
    watch.add({"resize": 16.0, "read": 0.5})
    assert watch.seconds == {"read": 4.5, "decode": 3.0, "resize": 16.0, "trunk": 8.0, "write": 4.0}


def test_a_stopwatch_loses_nothing_that_threads_add_at_once() -> None:
    class Second(float):
        """Lets other threads in between reading a sum and writing it."""

        def __radd__(self, other: float) -> float:
            time.sleep(0.001)
            return other + 1.0

    watch = Stopwatch()
    list(in_threads(range(50), lambda _: watch.add({"read": Second()}), threads=8))
    assert watch.seconds["read"] == 50


def test_the_trunks_time_is_watched(ticking: Callable[[float], None]) -> None:
    class Slow(Means):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            ticking(3.0)
            return super().__call__(images)

    watch = Stopwatch()
    list(run_trunk_on_views(range(12), lambda job: gray(job)[None], Slow(), 4, {}, watch=watch))
    assert watch.seconds["trunk"] == 9.0
