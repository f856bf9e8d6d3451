"""Worker processes: a share of the cores each, and an end when their parent ends."""

from __future__ import annotations

import os
import threading
import time


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
