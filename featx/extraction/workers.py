"""An extraction spread over workers: processes here, one a GPU, or a Dask or Ray cluster; all of it through joblib.

Shares are given out as workers get free. A worker that dies takes nothing with it but what it has not written yet: what
is missing then is given out anew.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from featx.backbones import gpus
from featx.errors import ExtractionError, FeatxError, one_line
from featx.extraction.share import Outcome, Share, compute_as_worker

SHARES_A_WORKER = 8  # so that the last one waits for no other for long
SECONDS_TO_CONNECT = 10
SHARE_ROWS = (256, 8192)  # at least and at most in a share, if there are so many


class WorkersLostError(ExtractionError):
    """Workers died, or the cluster did; what they wrote is kept."""


@dataclass(frozen=True)
class Workers:
    """Where the work is done.

    Attributes:
        kind: ``here``, ``processes``, ``gpus``, ``dask`` or ``ray``.
        count: how many there are; 0 if only the cluster knows.
        address: the cluster's, as its client takes it.
    """

    kind: str = "here"
    count: int = 1
    address: str = ""

    @classmethod
    def parse(cls, text: str | int) -> Workers:
        """``4``, ``gpus``, ``dask://host:8786`` or ``ray://host:10001``.

        Raises:
            ExtractionError: none of these.
        """
        text = str(text).strip()
        if text == "gpus":
            return cls("gpus", len(gpus()))._checked()
        cluster = re.fullmatch(r"(dask|ray)://(\S+:\d+)", text)
        if cluster:
            kind, host = cluster.groups()
            return cls(kind, 0, f"tcp://{host}" if kind == "dask" else text)._checked()
        if not re.fullmatch(r"[1-9]\d{0,3}", text):
            raise ExtractionError(
                f"--workers {text}: expected a number from 1 on, gpus, dask://HOST:PORT or ray://HOST:PORT"
            )
        return cls("processes", int(text)) if int(text) > 1 else cls()

    def _checked(self) -> Workers:
        if self.kind == "gpus" and not self.count:
            raise ExtractionError("--workers gpus: this machine has no NVIDIA GPU that may be used; give a number")
        package = {"dask": "distributed", "ray": "ray"}.get(self.kind)
        if package:
            try:
                __import__(package)
            except ImportError as error:
                raise ExtractionError(
                    f"--workers {self.kind}://... needs {package}: pip install '.[{self.kind}]'"
                ) from error
        return self


def spread(share: Share, workers: Workers) -> Iterator[Outcome]:
    """Have a share computed by workers, in parts; gives what became of each, as they end.

    Raises:
        WorkersLostError: workers were killed. ExtractionError: a cluster cannot be reached.
    """
    import joblib  # takes a while to load, and few runs need it

    with warnings.catch_warnings(), _cluster(workers) as cluster:
        warnings.simplefilter("ignore")  # such as joblib's of a killed worker, which the error tells
        common = replace(
            share,
            root=share.root.absolute(),
            folder=share.folder.absolute(),
            networks=share.networks.absolute(),
            sharers=cluster.on_a_machine,
            gpus=tuple(gpus()) if workers.kind == "gpus" else (),
            parent=os.getpid() if workers.kind in ("processes", "gpus") else 0,
        )
        parts = divide(common, cluster.count)
        try:
            with joblib.Parallel(cluster.count, batch_size=1, pre_dispatch="2 * n_jobs", **cluster.options) as parallel:
                for some in _rounds(parts, cluster):
                    yield from parallel(joblib.delayed(compute_as_worker)(part) for part in some)
        except FeatxError:
            raise
        except Exception as error:  # each of the libraries has errors of its own for a worker that is no more
            raise WorkersLostError(f"workers were lost: {type(error).__name__}: {one_line(error)}") from error


def divide(share: Share, workers: int) -> list[Share]:
    """Cut a share into parts of whole batches, some for each worker, so that the last one waits for no other long."""
    batch = share.batch_size or 32
    least, most = SHARE_ROWS
    each = min(max(share.rows // (workers * SHARES_A_WORKER), least), most, -(-share.rows // workers))
    pictures = -(-max(1, each // share.views.n) // batch) * batch
    starts = range(0, len(share.pictures), pictures)
    return [replace(share, pictures=share.pictures[start : start + pictures]) for start in starts]


def _rounds(parts: list[Share], cluster: _Cluster) -> Iterator[list[Share]]:
    """All parts at once where results come one by one; else so many that one hears of them now and then."""
    step = len(parts) if "return_as" in cluster.options else 4 * cluster.count
    for start in range(0, len(parts), step):
        yield parts[start : start + step]


# ------------------------------------------------------------------------------------------------------------ clusters


@dataclass(frozen=True)
class _Cluster:
    """How many workers there are, how many of them share a machine at most, and how joblib is told to use them."""

    count: int
    on_a_machine: int
    options: dict[str, Any]


@contextmanager
def _cluster(workers: Workers) -> Iterator[_Cluster]:
    if workers.kind == "dask":
        with _dask(workers.address) as cluster:
            yield cluster
    elif workers.kind == "ray":
        with _ray(workers.address) as cluster:
            yield cluster
    else:
        from joblib.externals.loky import get_reusable_executor

        try:
            yield _Cluster(workers.count, workers.count, {"backend": "loky", "return_as": "generator_unordered"})
        finally:  # each holds a network in memory
            get_reusable_executor().shutdown(wait=False, kill_workers=True)


@contextmanager
def _dask(address: str) -> Iterator[_Cluster]:
    from distributed import Client
    from joblib import parallel_config

    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ExtractionError(f"no Dask scheduler answers at {address}: {one_line(error)}") from error
    with client:
        hosts = Counter(worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
        if not hosts:
            raise ExtractionError(f"the Dask scheduler at {address} has no workers; start some with `dask worker`")
        with parallel_config(backend="dask", client=client):
            yield _Cluster(hosts.total(), max(hosts.values()), {"return_as": "generator_unordered"})


@contextmanager
def _ray(address: str) -> Iterator[_Cluster]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from joblib import parallel_config
    from ray.util.joblib import register_ray

    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # ConnectionError, or one of Ray's or of gRPC's own
        raise ExtractionError(f"no Ray cluster answers at {address}: {one_line(error)}") from error
    try:
        register_ray()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        cards = sum(int(node.get("GPU", 0)) for node in nodes)
        cores = int(min(node["CPU"] for node in nodes))
        count, needs = (cards, {"num_gpus": 1, "num_cpus": 1}) if cards else (len(nodes), {"num_cpus": cores})
        on_a_machine = max(int(node.get("GPU", 0)) for node in nodes) or 1
        with parallel_config(backend="ray", ray_remote_args=needs):
            yield _Cluster(count, on_a_machine, {})
    finally:
        ray.shutdown()
