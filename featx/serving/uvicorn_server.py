"""Uvicorn as it is wanted here: quiet, with limits, and with a word when it can be reached."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection, which else is closed as they ask by it again
MAX_CONNECTIONS = 1000  # the rest is turned away before it is listened to


def run_until_interrupted(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve an application at a socket until Ctrl-C, which is raised; ``ready`` is called when it can be reached."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level=logging.CRITICAL,  # what goes wrong with a request is said by the guard, in a line
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=0,
        server_header=False,
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client hears of it
    try:
        _Server(config, ready).run(sockets=[listener])
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the server has ended") from None


class _Server(uvicorn.Server):
    """Server that says when it can be reached."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._ready()
