"""The application: the page, what it asks, and what anybody may ask by HTTP."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException

from featx._internal.version import featx_version
from featx.classifier import Classifier
from featx.errors import FileReadError, PictureError, TrainingError
from featx.explanation import overlay, smaller
from featx.pictures import decode, quiet_pillow
from featx.serving.guard import LOOPBACK, Guard
from featx.serving.uploads import Door, Place, uploaded
from featx.serving.worker import MapOf, Worker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 20 * 10**6
MAX_PARALLEL = 64
BYTES_HELD = 256 * 2**20  # of bodies, by all requests together
DRAWERS = 2  # pictures that are drawn on at the same time: each may be large
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
    """What the classifier says of a picture."""

    label: str
    probability: float
    probabilities: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class About:
    """Which classifier this is. ``no_maps`` says why there are no maps, and is empty if there are."""

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
    """An application that answers by a classifier; its network is built and warmed up here already.

    Args:
        classifier: what answers.
        max_bytes: of the body of a request.
        max_parallel: requests with a picture at the same time; who comes on top is asked to come again.
        hosts: names that the server goes by, or None for any.
    """
    worker = Worker(classifier)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with quiet_pillow(classifier.recipe.max_pixels), worker:
            yield

    app = FastAPI(title="featx", version=featx_version(), docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, hosts=hosts)
    for kind in (HTTPException, RequestValidationError, PictureError, TrainingError):
        app.add_exception_handler(kind, _refused)
    _add_page(app)
    _add_description(app, worker, max_bytes)
    _add_questions(app, worker, max_bytes, Door(max_parallel, max(BYTES_HELD, 2 * max_bytes)))
    return app


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    """Any error as one line of JSON."""
    status, said, headers = 422, str(error), None
    if isinstance(error, HTTPException):
        status, said, headers = error.status_code, error.detail, error.headers
    elif isinstance(error, RequestValidationError):
        said = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    elif isinstance(error, FileReadError):  # no memory to decode it, just now
        status, headers = 503, {"Retry-After": "5"}
    return JSONResponse({"error": said}, status, headers)


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():
        app.add_route(path, _always(files("featx.serving").joinpath(name).read_bytes(), kind), include_in_schema=False)


def _always(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _add_description(app: FastAPI, worker: Worker, max_bytes: int) -> None:
    classifier = worker.classifier
    record = classifier.fitting
    about = About(
        class_names=classifier.class_names,
        spec=classifier.spec,
        head=record.head,
        validation_accuracy=record.validation_accuracy,
        validation_rows=record.validation_rows,
        train_rows=record.train_rows,
        no_maps=worker.no_maps,
        max_bytes=max_bytes,
        featx_version=featx_version(),
    )

    @app.get("/about")
    async def describe() -> About:
        """Which classifier this is."""
        return about

    @app.get("/health")
    async def health(response: Response) -> dict[str, bool]:
        """Whether pictures are answered."""
        response.status_code = 200 if worker.alive else 503
        return {"ok": worker.alive}


def _add_questions(app: FastAPI, worker: Worker, max_bytes: int, door: Door) -> None:
    classifier, drawers = worker.classifier, anyio.CapacityLimiter(DRAWERS)

    @app.post("/predict", openapi_extra=UPLOAD)
    async def predict(request: Request) -> Answer:
        """The most probable class of a picture, and the probability of each."""
        started = time.perf_counter()
        with Place(door) as place:
            picture = await uploaded(request, place, max_bytes)
            found = (await asyncio.wrap_future(worker.look(picture))).prediction
        return Answer(found.label, found.probability, found.probabilities, time.perf_counter() - started)

    @app.post("/explain", openapi_extra=UPLOAD, responses=PNG, response_class=Response)
    async def explain(
        request: Request,
        class_name: Annotated[str | None, Query(alias="class")] = None,
        method: Literal["cam", "gradcam"] | None = None,
    ) -> Response:
        """The picture under the map of a class (by default the predicted one): which places speak for it."""
        with Place(door) as place:
            picture = await uploaded(request, place, max_bytes)
            if class_name is not None and class_name not in classifier.class_names:
                raise HTTPException(422, f"the classifier knows no class {class_name[:100]!r}; /about lists them")
            seen = await asyncio.wrap_future(worker.look(picture, MapOf(class_name, method)))
            png = await anyio.to_thread.run_sync(_drawn, classifier, picture, seen.map, limiter=drawers)
        return Response(png, media_type="image/png")


def _drawn(classifier: Classifier, picture: bytes, map: NDArray[np.float32]) -> bytes:
    """A PNG of the picture under a map."""
    image = smaller(decode(picture, classifier.recipe.max_pixels))
    png = io.BytesIO()
    Image.fromarray(overlay(image, map, classifier.spec["size"], classifier.recipe.resize)).save(png, "PNG")
    return png.getvalue()
