"""Hashes as names of content: of a file's bytes, and of JSON values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_id(data: bytes) -> str:
    """BLAKE2b-128 of a file's bytes, 32 hexadecimal digits: what featx knows a picture by."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest(value: Any) -> str:
    """BLAKE2b-64 of a JSON value, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
