"""The server: an address of its own, and an end by Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable

import uvicorn

from featx.classifier import Classifier
from featx.errors import ServingError
from featx.serving.app import MAX_BYTES, make_app
from featx.serving.guard import LOOPBACK

logger = logging.getLogger(__name__)

KEPT_ALIVE = 75  # seconds: longer than clients keep a connection, which else is closed as they ask by it again
CONNECTIONS = 1000  # at once; the rest is turned away before it is listened to


def serve(
    classifier: Classifier,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    max_bytes: int = MAX_BYTES,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve a classifier until somebody presses Ctrl-C.

    Args:
        classifier: what answers.
        host: where to listen; others than this machine can only reach addresses that do not begin with 127.
        port: 0 takes one that is free.
        max_bytes: of the body of a request.
        ready: called with the page's address once it can be opened.

    Raises:
        ServingError: the address cannot be had.
    """
    listener = _listener(host, port)  # first: building a network for an address that is taken would be time lost
    with listener:
        local = _is_local(listener)
        if not local:
            logger.warning("whoever can reach %s may use the classifier: there is no password and no encryption", host)
        hosts = {*LOOPBACK, host.lower()} if local else None
        config = uvicorn.Config(
            make_app(classifier, max_bytes=max_bytes, hosts=hosts),
            access_log=False,
            log_config=None,
            log_level=logging.CRITICAL,  # what goes wrong with a request is said by the guard, in a line
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEPT_ALIVE,
            timeout_graceful_shutdown=0,
            server_header=False,
        )
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client hears of it
        server = _Server(config, lambda: ready(_url(listener)))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the server has ended") from None


class _Server(uvicorn.Server):
    """A server that says when it can be reached."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._ready()


def _listener(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):  # UnicodeError: no name can be written like that
        raise ServingError(f"`host={host}`: there is no such address") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ServingError(f"{host}, port {port} {_why_not(error)}") from None
    return listener


def _why_not(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use; give another `port`, or `port=0` for one that is free"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is not this machine's address; give another `host`"
    return f"cannot be had: {(error.strerror or str(error)).lower()}; give another `port` or `host`"


def _is_local(listener: socket.socket) -> bool:
    """Whether only programs on this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback


def _url(listener: socket.socket) -> str:
    name, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(name.split("%")[0])
    if address.is_unspecified:  # all addresses: from here, the loopback's is one of them
        name = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
