"""Limits of what requests may hold in memory, each and all together."""

from __future__ import annotations

MAX_BYTES = 20 * 10**6  # of one request's body
MAX_PARALLEL = 64  # requests with a picture at the same time
MEMORY_BYTES = 256 * 2**20  # of the bodies of all requests together


class Capacity:
    """Room for requests, all together: a number of them, and a number of bytes.

    Attributes:
        max_requests, max_bytes: the limits.
        requests, bytes: how much of them is taken.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0


class Reservation:
    """One request's share of a capacity: ``with Reservation(capacity) as reservation``.

    Attributes:
        admitted: whether there was room for the request; without, no byte can be reserved.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._bytes = 0
        self.admitted = capacity.requests < capacity.max_requests

    def __enter__(self) -> Reservation:
        self._capacity.requests += self.admitted
        return self

    def __exit__(self, *_: object) -> None:
        self._capacity.requests -= self.admitted
        self.release()

    def reserve(self, count: int) -> bool:
        """Take room for ``count`` more bytes, until the reservation ends; False if there is none."""
        if not self.admitted or self._capacity.bytes + count > self._capacity.max_bytes:
            return False
        self._capacity.bytes += count
        self._bytes += count
        return True

    def release(self) -> None:
        """Give back the room for all bytes."""
        self._capacity.bytes -= self._bytes
        self._bytes = 0
