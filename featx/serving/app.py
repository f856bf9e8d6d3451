"""The application: the page, the API that the page uses, and its description."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from featx._internal.choices import Method
from featx._internal.version import featx_version
from featx.classifier import Classifier
from featx.errors import FileReadError, PictureError, TrainingError
from featx.explanation import overlay, shrink, to_png
from featx.pictures import decode, quiet_pillow
from featx.serving.address import LOOPBACK
from featx.serving.guard import Guard
from featx.serving.limits import MAX_BYTES, MAX_PARALLEL, MEMORY_BYTES, Capacity, Reservation
from featx.serving.predictor import MapRequest, Predictor
from featx.serving.uploads import read_upload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWINGS = 2  # at the same time: each picture may be large
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "required": ["file"], "properties": {"file": _PICTURE["schema"]}}
UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}, "image/*": _PICTURE}}}
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": _PICTURE}}}


@dataclass(frozen=True)
class Answer:
    """Prediction of a picture.

    Attributes:
        label, probability: the most probable class, and its probability.
        probabilities: probability by class name.
        seconds: time that the request took.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class About:
    """Description of the classifier.

    Attributes:
        class_names: names of the classes.
        spec: everything that decides the features' values.
        head: name of the head.
        validation_accuracy: accuracy on the rows held out; None if there were none.
        validation_rows, train_rows: number of rows held out, and trained on.
        no_maps: reason why there are no activation maps; empty if there are.
        max_bytes: bytes that the body of a request may have.
        featx_version: version that serves it.
    """

    class_names: list[str]
    spec: dict[str, Any]
    head: str
    validation_accuracy: float | None
    validation_rows: int
    train_rows: int
    no_maps: str
    max_bytes: int
    featx_version: str


def make_app(
    classifier: Classifier,
    *,
    max_bytes: int = MAX_BYTES,
    max_parallel: int = MAX_PARALLEL,
    hosts: Collection[str] | None = LOOPBACK,
) -> FastAPI:
    """Application that answers by a classifier; its network is built and warmed up here already.

    Args:
        classifier: the classifier.
        max_bytes: bytes that the body of a request may have.
        max_parallel: requests with a picture at the same time; any more are asked to come again.
        hosts: names that the server goes by, or None for any.
    """
    predictor = Predictor(classifier)
    capacity = Capacity(max_parallel, max(MEMORY_BYTES, 2 * max_bytes))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        """Life of the predictor's thread."""
        with quiet_pillow(classifier.recipe.max_pixels), predictor:
            yield

    app = FastAPI(title="featx", version=featx_version(), docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, hosts=hosts)
    for kind in (HTTPException, RequestValidationError, PictureError, TrainingError):
        app.add_exception_handler(kind, _refused)
    _add_page(app)
    _add_description(app, predictor, max_bytes)
    _add_predictions(app, predictor, capacity, max_bytes)
    _add_explanations(app, predictor, capacity, max_bytes)
    return app


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    """Error as one line of JSON."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        problems = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        return JSONResponse({"error": problems}, 422)
    if isinstance(error, FileReadError):  # no memory to decode it, just now
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "5"})
    return JSONResponse({"error": str(error)}, 422)


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():
        content = files("featx.serving").joinpath(name).read_bytes()
        app.add_route(path, _constant(content, kind), include_in_schema=False)


def _constant(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """Route that answers every request with the same file."""

    async def answer(_request: Request) -> Response:
        """The file."""
        return Response(content, media_type=kind)

    return answer


def _add_description(app: FastAPI, predictor: Predictor, max_bytes: int) -> None:
    classifier = predictor.classifier
    record = classifier.fitting
    about = About(
        class_names=classifier.class_names,
        spec=classifier.spec,
        head=record.head,
        validation_accuracy=record.validation_accuracy,
        validation_rows=record.validation_rows,
        train_rows=record.train_rows,
        no_maps=predictor.no_maps,
        max_bytes=max_bytes,
        featx_version=featx_version(),
    )

    @app.get("/about")
    async def describe() -> About:
        """Description of the classifier."""
        return about

    @app.get("/health")
    async def health(response: Response) -> dict[str, bool]:
        """Whether pictures are answered."""
        response.status_code = 200 if predictor.alive else 503
        return {"ok": predictor.alive}


def _add_predictions(app: FastAPI, predictor: Predictor, capacity: Capacity, max_bytes: int) -> None:
    @app.post("/predict", openapi_extra=UPLOAD)
    async def predict(request: Request) -> Answer:
        """The most probable class of a picture, and the probability of each."""
        started = time.perf_counter()
        with Reservation(capacity) as reservation:
            picture = await read_upload(request, reservation, max_bytes)
            answered = await asyncio.wrap_future(predictor.submit(picture))
        prediction = answered.prediction
        seconds = time.perf_counter() - started
        return Answer(prediction.label, prediction.probability, prediction.probabilities, seconds)


def _add_explanations(app: FastAPI, predictor: Predictor, capacity: Capacity, max_bytes: int) -> None:
    classifier = predictor.classifier
    drawings = anyio.CapacityLimiter(DRAWINGS)

    @app.post("/explain", openapi_extra=UPLOAD, responses=PNG, response_class=Response)
    async def explain(
        request: Request,
        class_name: Annotated[str | None, Query(alias="class")] = None,
        method: Method | None = None,
    ) -> Response:
        """The picture under the map of a class (by default the predicted one): which places speak for it."""
        with Reservation(capacity) as reservation:
            picture = await read_upload(request, reservation, max_bytes)
            if class_name is not None and class_name not in classifier.class_names:
                raise HTTPException(422, f"the classifier knows no class {class_name[:100]!r}; /about lists them")
            answered = await asyncio.wrap_future(predictor.submit(picture, MapRequest(class_name, method)))
            draw = functools.partial(_draw, classifier, picture, answered.activation_map)
            png = await anyio.to_thread.run_sync(draw, limiter=drawings)
        return Response(png, media_type="image/png")


def _draw(classifier: Classifier, picture: bytes, activation_map: NDArray[np.float32]) -> bytes:
    """PNG file of a picture under an activation map."""
    image = shrink(decode(picture, classifier.recipe.max_pixels))
    return to_png(overlay(image, activation_map, classifier.spec["size"], classifier.recipe.resize))
