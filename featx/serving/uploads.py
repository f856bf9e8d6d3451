"""How a picture comes in: by a form or as it is, never more than there is room for."""

from __future__ import annotations

import asyncio
from typing import Any

from python_multipart import create_form_parser
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

DRAINED = 64 * 2**20  # bytes of a refused body that are read all the same
UPLOAD_SECONDS = 60.0
FILES_IN_A_FORM = 4  # that are looked at


class Door:
    """Bounds what all requests together hold in memory: so many of them, and so many bytes."""

    def __init__(self, most_requests: int, most_bytes: int) -> None:
        self.most_requests, self.most_bytes = most_requests, most_bytes
        self.requests = self.bytes = 0


class Place:
    """One request's share of what there is room for: ``with Place(door) as place``."""

    def __init__(self, door: Door) -> None:
        self._door, self._bytes = door, 0
        self.admitted = door.requests < door.most_requests

    def __enter__(self) -> Place:
        self._door.requests += self.admitted
        return self

    def __exit__(self, *_: object) -> None:
        self._door.requests -= self.admitted
        self.let_go()

    def hold(self, count: int) -> bool:
        """Whether there is room for so many bytes more; they are held until the place is left."""
        if not self.admitted or self._door.bytes + count > self._door.most_bytes:
            return False
        self._door.bytes += count
        self._bytes += count
        return True

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._door.bytes -= self._bytes
        self._bytes = 0


async def uploaded(request: Request, place: Place, most: int) -> bytes:
    """The bytes of the picture that a request carries: its body, or the field ``file`` of a form.

    Raises:
        HTTPException: it has none, more than ``most`` bytes, or comes when there is no room.
    """
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            body = await _body(request, place, most)
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


async def _body(request: Request, place: Place, most: int) -> bytes:
    """A body, counted as it comes. One that is refused is read on and thrown away, or the client would not hear why."""
    body, size, refusal = bytearray(), 0, None
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            refusal = HTTPException(413, f"the body has more than the {most / 1e6:g} MB that are accepted")
        elif refusal is None and not place.hold(len(chunk)):
            refusal = HTTPException(503, "too many pictures at once; try again in a moment", {"Retry-After": "1"})
        if refusal is None:
            body += chunk
        else:
            body.clear()
            place.let_go()
        if size > DRAINED:
            break
    if refusal is not None:
        raise refusal
    return bytes(body)


def _file_of_form(kind: str, body: bytes) -> bytes:
    files: list[Any] = []

    def keep(file: Any) -> None:
        if len(files) == FILES_IN_A_FORM:
            raise ValueError("one picture at a time")
        files.append(file)

    try:
        in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}  # nothing of it is ever written to a disk
        parser = create_form_parser({"Content-Type": kind.encode()}, lambda _: None, keep, config=in_memory)
        parser.write(body)
        parser.finalize()
    except Exception:  # whatever the parser raises, the form cannot be read
        raise HTTPException(400, "the form cannot be read") from None
    for file in files:
        if file.field_name == b"file":
            file.file_object.seek(0)
            if data := bytes(file.file_object.read()):
                return data
            raise HTTPException(400, "the file is empty; send a picture")
    raise HTTPException(400, "the form has no file in a field named `file`")
