"""Rules of every request and every answer: names of hosts, headers, and no error that shows more than a line."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featx.errors import one_line

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")  # IPv6 addresses have colons of their own


class Guard:
    """Application around the application.

    Attributes:
        app: the application that is guarded.
        hosts: names that the server may be called by, or None for any. Else a page from elsewhere, whose name is made
            to point here (DNS rebinding), could ask as if it came from here.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def send_with_headers(message: Message) -> None:
            """Send a part of an answer, with our headers if it is the first."""
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        async def refuse(status: int, reason: str) -> None:
            """Send an error instead of an answer."""
            await JSONResponse({"error": reason}, status)(scope, receive, send_with_headers)

        if not self._is_known(Headers(scope=scope).get("host", "")):
            return await refuse(400, "this server does not go by that name; open it as localhost or 127.0.0.1")
        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:  # nobody waits for an answer
            pass
        except Exception as error:  # a bug, or no memory: the server goes on
            logger.warning("a request failed: %s: %s", type(error).__name__, one_line(error))
            if not started:
                await refuse(500, "something went wrong here; the server's terminal says more")

    def _is_known(self, host: str) -> bool:
        if self.hosts is None:
            return True
        match = HOST.fullmatch(host.lower())
        return match is not None and match[1] in self.hosts
