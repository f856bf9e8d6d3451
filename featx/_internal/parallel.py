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
    """Threads per worker if so many share this machine, so that there are no more threads than cores."""
    from joblib import cpu_count  # takes a while to load, and few runs need it

    return max(1, int(cpu_count()) // workers)


def threads_in_environment(threads: int) -> dict[str, str]:
    """Environment in which network and matrix libraries, once loaded, take so many threads."""
    # NPROC is read by JAX
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC")
    return {**dict.fromkeys(names, str(threads)), "TF_NUM_INTEROP_THREADS": "1"}


def watch_parent(parent: int) -> None:
    """End this process when the process ``parent`` ends: nobody would wait for its results."""
    threading.Thread(target=_end_after, args=(parent,), name="featx-watch", daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def in_threads(
    jobs: Iterable[Job], work: Callable[[Job], Result], ahead: int = 64, threads: int | None = None
) -> Iterator[tuple[Job, Result | PictureError]]:
    """Results of ``work`` done by threads, in the order of the jobs.

    (joblib's generators go on working however far behind their reader is.)

    Args:
        jobs: arguments of ``work``.
        work: function of one job.
        ahead: jobs under way or waiting at most, so that memory stays bounded.
        threads: by default as many as there are cores.

    Yields:
        each job and its result; the :class:`PictureError` that it raised instead, if it did.
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    with _pool(threads or cores()) as pool:
        for job in jobs:
            waiting.append((job, pool.submit(work, job)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                result = _result_or_error(future)
                yield first, result
        while waiting:
            first, future = waiting.popleft()
            result = _result_or_error(future)
            yield first, result


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _result_or_error(future: Future[Result]) -> Result | PictureError:
    try:
        return future.result()
    except PictureError as error:
        return error
