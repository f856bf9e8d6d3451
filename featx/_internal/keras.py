"""The one place that imports Keras: late, because it takes seconds, and quietly, because it chatters on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


@cache
def load_keras() -> Any:
    """Module ``keras``, its backend initialised.

    The backend is Keras's own choice (``KERAS_BACKEND``, else ``~/.keras/keras.json``, else TensorFlow). A GPU's memory
    is taken as needed instead of all at once, so that another program can share the card.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # It warns of "5 out of the last 5 calls" that triggered retracing, which were of five models
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with held_back():
        import keras

        keras.ops.zeros((1,))  # the first operation looks for devices, and says so at length
    return keras


def backend_asked() -> str:
    """Name of the backend that Keras will take, without importing Keras."""
    name = os.environ.get("KERAS_BACKEND")
    if not name:
        home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            name = json.loads((home / "keras.json").read_text(encoding="utf-8")).get("backend")
    return name or "tensorflow"


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back what C++ libraries write to file descriptor 2; show it after all if the block fails."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, AttributeError):  # no stderr to protect
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
