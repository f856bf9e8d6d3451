"""Address of the server: a socket bound to it, its URL, and whether other machines can reach it."""

from __future__ import annotations

import errno
import ipaddress
import socket

from featx.errors import ServingError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # names of this machine, as browsers write them


def bound_socket(host: str, port: int) -> socket.socket:
    """Socket bound to an address, not listening yet; port 0 takes a free one.

    Raises:
        ServingError: no such address, or one that is in use.
    """
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
        raise ServingError(f"{host}, port {port} {_problem(error)}") from None
    return listener


def _problem(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use; give another `port`, or `port=0` for one that is free"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is not this machine's address; give another `host`"
    return f"cannot be had: {(error.strerror or str(error)).lower()}; give another `port` or `host`"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs on this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """URL of the page that is served at a socket, as this machine can open it."""
    name, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(name.split("%")[0])
    if address.is_unspecified:  # all addresses: from here, the loopback's is one of them
        name = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
