"""The one thread that runs the network, for all requests, one batch of one shape after another.

What comes while it works waits, and goes into the next batch together: the queue is as long as those who fill it allow.
"""

from __future__ import annotations

import io
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from featx.classifier import Classifier, Prediction
from featx.errors import PictureError, TrainingError
from featx.explanation import activation_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 8  # on an accelerator; a processor would take eight times as long, and a lone picture wait for nothing


@dataclass(frozen=True)
class MapOf:
    """A map that is wanted too: of which class (by default the predicted one), by which method."""

    class_name: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class Seen:
    """What the classifier says of a picture, and the map ``(h, w)`` that was wanted; ``(0, 0)`` if none was."""

    prediction: Prediction
    map: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))


@dataclass(frozen=True)
class _Job:
    picture: bytes
    map_of: MapOf | None = None
    done: Future[Seen] = field(default_factory=Future)


class Worker:
    """A classifier that looks at one picture after another, in a thread of its own. To be entered, then asked.

    Attributes:
        batch_size: pictures a call of the network, always as many.
        no_maps: why there are no maps; empty if there are.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._trunk = classifier.trunk()
        self.batch_size = BATCH if self._trunk.info.lanes > 1 else 1
        self.no_maps = self._warmed_up()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="featx-serving", daemon=True)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for job in iter(self._next, None):
            job.done.cancel()
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread.is_alive()

    def look(self, picture: bytes, map_of: MapOf | None = None) -> Future[Seen]:
        """What the classifier says of a picture file's bytes, once it is that picture's turn.

        The future raises :class:`PictureError` if it cannot be read, :class:`TrainingError` if there is no such map.
        """
        job = _Job(picture, map_of)
        self._jobs.put(job)
        return job.done

    def _warmed_up(self) -> str:
        """Have everything compiled that a request needs."""
        gray = io.BytesIO()
        Image.new("RGB", (1, 1), "gray").save(gray, "PNG")  # no recipe forbids so few pixels
        first, second = _Job(gray.getvalue()), _Job(gray.getvalue(), MapOf())
        for job in (first, second):
            self._answer([job])
        first.done.result()
        try:
            second.done.result()
        except TrainingError as error:
            return str(error)
        return ""

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            others = (self._next() for _ in range(self.batch_size - 1))
            self._answer([first, *(job for job in others if job is not None)])

    def _next(self) -> _Job | None:
        """Somebody who waits already. The sign to end is nobody, and stays."""
        try:
            job = self._jobs.get_nowait()
        except Empty:
            return None
        if job is None:
            self._jobs.put(None)
        return job

    def _answer(self, jobs: list[_Job]) -> None:
        """Answer them in one batch; no error gets out of the thread, for others will ask."""
        jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        failures: dict[bytes, PictureError] = {}
        found: dict[bytes, tuple[NDArray[Any], NDArray[np.float32]]] = {}
        try:
            pictures = [job.picture for job in jobs]
            for some, stored in self.classifier.live_features(pictures, failures, self.batch_size, self._trunk):
                found |= zip(some, zip(stored, self.classifier.probabilities(stored), strict=True), strict=True)
        except Exception as error:
            for job in jobs:
                job.done.set_exception(error)
            return
        for job in jobs:
            try:
                if job.picture in failures:
                    raise failures[job.picture]
                job.done.set_result(self._seen(*found[job.picture], job.map_of))
            except Exception as error:
                job.done.set_exception(error)

    def _seen(self, stored: NDArray[Any], probabilities: NDArray[np.float32], map_of: MapOf | None) -> Seen:
        prediction = self.classifier.prediction("", probabilities)
        if map_of is None:
            return Seen(prediction)
        shown = np.array([self.classifier.class_names.index(map_of.class_name or prediction.label)])
        return Seen(prediction, activation_maps(self.classifier.head, stored[None], shown, map_of.method)[0])
