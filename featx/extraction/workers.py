"""An extraction spread over workers: processes here, one per GPU, or a Dask or Ray cluster; all of it through joblib.

Shares are given out as workers get free. A worker that dies takes nothing with it but the rows it has not written yet:
those that are missing then are given out anew.
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
from featx.errors import ExtractionError, FeatxError, SettingError, one_line
from featx.extraction.share import Outcome, Share, compute_as_worker

SHARES_PER_WORKER = 8  # so that the last one waits for no other for long
SECONDS_TO_CONNECT = 10
SHARE_ROWS = (256, 8192)  # at least and at most in a share, if there are so many


class WorkersLostError(ExtractionError):
    """Workers died, or the cluster did; what they wrote is kept."""


@dataclass(frozen=True)
class Workers:
    """Workers that an extraction is spread over.

    Attributes:
        kind: ``here``, ``processes``, ``gpus``, ``dask`` or ``ray``.
        count: number of workers; 0 if only the cluster knows.
        address: address of the cluster, as its client takes it.
    """

    kind: str = "here"
    count: int = 1
    address: str = ""

    @classmethod
    def parse(cls, text: str | int) -> Workers:
        """Workers from ``4``, ``gpus``, ``dask://host:8786`` or ``ray://host:10001``.

        Raises:
            SettingError: none of these, or no GPU. ExtractionError: a package that the cluster needs is not installed.
        """
        text = str(text).strip()
        if text == "gpus":
            return cls("gpus", len(gpus()))._checked()
        cluster = re.fullmatch(r"(dask|ray)://(\S+:\d+)", text)
        if cluster:
            kind, host = cluster.groups()
            return cls(kind, 0, f"tcp://{host}" if kind == "dask" else text)._checked()
        if not re.fullmatch(r"[1-9]\d{0,3}", text):
            raise SettingError(
                f"`workers={text}`: expected a number from 1 on, gpus, dask://HOST:PORT or ray://HOST:PORT", "workers"
            )
        return cls("processes", int(text)) if int(text) > 1 else cls()

    def _checked(self) -> Workers:
        if self.kind == "gpus" and not self.count:
            raise SettingError(
                '`workers="gpus"`: this machine has no NVIDIA GPU that may be used; give a number', "workers"
            )
        package = {"dask": "distributed", "ray": "ray"}.get(self.kind)
        if package:
            try:
                __import__(package)
            except ImportError as error:
                raise ExtractionError(
                    f"`workers={self.kind}://...` needs {package}: pip install '.[{self.kind}]'"
                ) from error
        return self


def spread(share: Share, workers: Workers) -> Iterator[Outcome]:
    """Have a share computed by workers, in parts.

    Yields:
        the outcome of each part, as they end.

    Raises:
        WorkersLostError: workers were killed. ExtractionError: a cluster cannot be reached.
    """
    import joblib  # takes a while to load, and few runs need it

    with warnings.catch_warnings(), _cluster(workers) as cluster:
        warnings.simplefilter("ignore")  # such as joblib's of a killed worker, which the error mentions
        common = replace(
            share,
            root=share.root.absolute(),
            folder=share.folder.absolute(),
            networks=share.networks.absolute(),
            sharers=cluster.most_per_machine,
            gpus=tuple(gpus()) if workers.kind == "gpus" else (),
            parent=os.getpid() if workers.kind in ("processes", "gpus") else 0,
        )
        parts = split_share(common, cluster.count)
        try:
            with joblib.Parallel(cluster.count, batch_size=1, pre_dispatch="2 * n_jobs", **cluster.options) as parallel:
                for chunk in _chunks(parts, cluster):
                    yield from parallel(joblib.delayed(compute_as_worker)(part) for part in chunk)
        except FeatxError:
            raise
        except Exception as error:  # each of the libraries has errors of its own for a worker that is no more
            raise WorkersLostError(f"workers were lost: {type(error).__name__}: {one_line(error)}") from error


def split_share(share: Share, workers: int) -> list[Share]:
    """Parts of a share, of whole batches, several for each worker, so that the last one waits for no other long."""
    batch_size = share.batch_size or 32
    least, most = SHARE_ROWS
    rows = min(max(share.rows // (workers * SHARES_PER_WORKER), least), most, -(-share.rows // workers))
    pictures = -(-max(1, rows // share.views.n) // batch_size) * batch_size
    starts = range(0, len(share.pictures), pictures)
    return [replace(share, pictures=share.pictures[start : start + pictures]) for start in starts]


def _chunks(parts: list[Share], cluster: _Cluster) -> Iterator[list[Share]]:
    """All parts at once where results come one by one; else so many that progress shows now and then."""
    step = len(parts) if "return_as" in cluster.options else 4 * cluster.count
    for start in range(0, len(parts), step):
        yield parts[start : start + step]


@dataclass(frozen=True)
class _Cluster:
    """Workers that are ready.

    Attributes:
        count: number of workers.
        most_per_machine: number of them that share a machine at most.
        options: arguments by which joblib uses them.
    """

    count: int
    most_per_machine: int
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
            raise ExtractionError(f"the Dask scheduler at {address} has no workers; start them with `dask worker`")
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
        needs = {"num_gpus": 1, "num_cpus": 1} if cards else {"num_cpus": cores}
        most_per_machine = max(int(node.get("GPU", 0)) for node in nodes) or 1
        with parallel_config(backend="ray", ray_remote_args=needs):
            yield _Cluster(cards or len(nodes), most_per_machine, {})
    finally:
        ray.shutdown()
