"""A classifier as a page and an API over HTTP."""

from importlib.util import find_spec

from featx.errors import ServingError

if not all(map(find_spec, ("fastapi", "uvicorn", "python_multipart"))):
    raise ServingError("serving needs FastAPI and Uvicorn: pip install '.[serve]'")

from featx.serving.app import make_app  # noqa: E402 - only now is it known that it can be imported
from featx.serving.server import serve  # noqa: E402

__all__ = ["make_app", "serve"]
