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

from featx._internal.choices import Method
from featx.classifier import Classifier, Prediction
from featx.errors import PictureError, TrainingError
from featx.explanation import activation_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SIZE = 8  # on an accelerator; on a processor, a lone picture would wait eight times as long for nothing


@dataclass(frozen=True)
class MapRequest:
    """Request for an activation map too.

    Attributes:
        class_name: class that the map is of; by default the predicted one.
        method: ``cam`` or ``gradcam``; by default ``cam`` where it can be had.
    """

    class_name: str | None = None
    method: Method | None = None


@dataclass(frozen=True)
class PredictionWithMap:
    """Prediction of a picture.

    Attributes:
        prediction: classes and probabilities.
        activation_map: float32 ``(h, w)``; ``(0, 0)`` if none was requested.
    """

    prediction: Prediction
    activation_map: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))


@dataclass(frozen=True)
class _Job:
    picture: bytes
    map_request: MapRequest | None = None
    future: Future[PredictionWithMap] = field(default_factory=Future)


class Predictor:
    """Thread in which a classifier predicts pictures, batch by batch. Entered first, then given pictures.

    Attributes:
        classifier: the classifier; its network is built and warmed up in the constructor.
        batch_size: pictures per call of the network, always as many.
        no_maps: reason why there are no activation maps; empty if there are.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._trunk = classifier.trunk()
        self.batch_size = BATCH_SIZE if self._trunk.info.lanes > 1 else 1
        self.no_maps = self._warm_up()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="featx-serving", daemon=True)

    def __enter__(self) -> Predictor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for job in iter(self._next_waiting, None):
            job.future.cancel()
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, so that pictures are answered."""
        return self._thread.is_alive()

    def submit(self, picture: bytes, map_request: MapRequest | None = None) -> Future[PredictionWithMap]:
        """Queue a picture, given as the bytes of its file.

        Returns:
            Future of the answer. It raises :class:`PictureError` if the picture cannot be read, and
            :class:`TrainingError` if there is no such map.
        """
        job = _Job(picture, map_request)
        self._jobs.put(job)
        return job.future

    def _warm_up(self) -> str:
        """Have everything compiled that a request needs; the reason why there are no maps, if there are none."""
        gray = io.BytesIO()
        Image.new("RGB", (1, 1), "gray").save(gray, "PNG")  # no recipe forbids so few pixels
        plain = _Job(gray.getvalue())
        with_map = _Job(gray.getvalue(), MapRequest())
        for job in (plain, with_map):
            self._answer([job])
        plain.future.result()
        try:
            with_map.future.result()
        except TrainingError as error:
            return str(error)
        return ""

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            others = (self._next_waiting() for _ in range(self.batch_size - 1))
            self._answer([first, *(job for job in others if job is not None)])

    def _next_waiting(self) -> _Job | None:
        """The next job, if one waits already. None, the sign to end, is put back for who waits for it."""
        try:
            job = self._jobs.get_nowait()
        except Empty:
            return None
        if job is None:
            self._jobs.put(None)
        return job

    def _answer(self, jobs: list[_Job]) -> None:
        """Answer jobs in one batch; no error gets out of the thread, for others will come."""
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        failures: dict[bytes, PictureError] = {}
        outputs: dict[bytes, tuple[NDArray[Any], NDArray[np.float32]]] = {}  # features and probabilities by picture
        try:
            pictures = [job.picture for job in jobs]
            batches = self.classifier.live_features(pictures, failures, self.batch_size, self._trunk)
            for batch, stored in batches:
                outputs |= zip(batch, zip(stored, self.classifier.probabilities(stored), strict=True), strict=True)
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job in jobs:
            try:
                if job.picture in failures:
                    raise failures[job.picture]
                job.future.set_result(self._with_map(*outputs[job.picture], job.map_request))
            except Exception as error:
                job.future.set_exception(error)

    def _with_map(
        self, stored: NDArray[Any], probabilities: NDArray[np.float32], map_request: MapRequest | None
    ) -> PredictionWithMap:
        prediction = self.classifier.prediction("", probabilities)
        if map_request is None:
            return PredictionWithMap(prediction)
        names = self.classifier.class_names
        numbers = np.array([names.index(map_request.class_name or prediction.label)])
        maps = activation_maps(self.classifier.head, stored[None], numbers, map_request.method)
        return PredictionWithMap(prediction, maps[0])
