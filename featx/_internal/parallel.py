"""Work side by side: threads whose results come in order, and processes that end when their parent ends."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from featx.errors import PictureError

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


def share_of_cores(workers: int) -> int:
    """How many threads each of several workers on this machine has, so that there are no more threads than cores."""
    from joblib import cpu_count  # takes a while to load, and few runs need it

    return max(1, int(cpu_count()) // workers)


def threads_in_environment(threads: int) -> dict[str, str]:
    """The environment in which network and matrix libraries, once loaded, take so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC")  # JAX's
    return {**dict.fromkeys(names, str(threads)), "TF_NUM_INTEROP_THREADS": "1"}


def end_with(parent: int) -> None:
    """End this process when its parent does: nobody would wait for its results."""
    threading.Thread(target=_watch, args=(parent,), name="featx-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def in_threads(
    jobs: Iterable[Job], work: Callable[[Job], Result], ahead: int = 64, threads: int | None = None
) -> Iterator[tuple[Job, Result | PictureError]]:
    """``work`` done by threads, results in order, a :class:`PictureError` among them where it was raised.

    At most ``ahead`` are under way or waiting, so memory stays bounded. (joblib's generators go on working however far
    behind their reader is.)
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    with _pool(threads or cores()) as pool:
        for job in jobs:
            waiting.append((job, pool.submit(work, job)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                result = _outcome(future)
                yield first, result
        while waiting:
            first, future = waiting.popleft()
            result = _outcome(future)
            yield first, result


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcome(future: Future[Result]) -> Result | PictureError:
    try:
        return future.result()
    except PictureError as error:
        return error
