"""Pictures as requests bring them: in a form or as the body, never more than there is room for."""

from __future__ import annotations

import asyncio
from typing import Any

from python_multipart import create_form_parser
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from featx.serving.limits import Reservation

DRAIN_BYTES = 64 * 2**20  # of a refused body that are read all the same
UPLOAD_SECONDS = 60.0
FILES_PER_FORM = 4  # that are looked at


async def read_upload(request: Request, reservation: Reservation, max_bytes: int) -> bytes:
    """Bytes of the picture that a request carries: its body, or the field ``file`` of a form.

    Raises:
        HTTPException: no picture, more than ``max_bytes`` bytes, or no room for them.
    """
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            body = await _read_body(request, reservation, max_bytes)
    except TimeoutError:
        raise HTTPException(408, f"the picture did not arrive within {UPLOAD_SECONDS:.0f} seconds") from None
    if not body:
        raise HTTPException(400, "the body is empty; send a picture")
    kind = request.headers.get("content-type", "")
    if kind.lower().startswith("image/"):
        return body
    if not kind.lower().startswith("multipart/form-data"):
        raise HTTPException(
            415, "send a form with a field `file`, or a picture as Content-Type: image/jpeg or the like"
        )
    return await run_in_threadpool(_file_of_form, kind, body)


async def _read_body(request: Request, reservation: Reservation, max_bytes: int) -> bytes:
    """Body, counted as it comes. One that is refused is read on and thrown away, or the client would not hear why."""
    body = bytearray()
    size = 0
    refusal: HTTPException | None = None
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            refusal = HTTPException(413, f"the body has more than the {max_bytes / 1e6:g} MB that are accepted")
        elif refusal is None and not reservation.reserve(len(chunk)):
            refusal = HTTPException(503, "too many pictures at once; try again in a moment", {"Retry-After": "1"})
        if refusal is None:
            body += chunk
        else:
            body.clear()
            reservation.release()
        if size > DRAIN_BYTES:
            break
    if refusal is not None:
        raise refusal
    return bytes(body)


def _file_of_form(kind: str, body: bytes) -> bytes:
    """Content of the field ``file`` of a form."""
    for file in _files_of_form(kind, body):
        if file.field_name == b"file":
            file.file_object.seek(0)
            if data := bytes(file.file_object.read()):
                return data
            raise HTTPException(400, "the file is empty; send a picture")
    raise HTTPException(400, "the form has no file in a field named `file`")


def _files_of_form(kind: str, body: bytes) -> list[Any]:
    files: list[Any] = []

    def add(file: Any) -> None:
        """Take a file of the form, but not any number of them."""
        if len(files) == FILES_PER_FORM:
            raise ValueError("one picture at a time")
        files.append(file)

    try:
        in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}  # nothing of it is ever written to a disk
        parser = create_form_parser({"Content-Type": kind.encode()}, lambda _: None, add, config=in_memory)
        parser.write(body)
        parser.finalize()
    except Exception:  # whatever the parser raises, the form cannot be read
        raise HTTPException(400, "the form cannot be read") from None
    return files
