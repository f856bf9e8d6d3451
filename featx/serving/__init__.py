"""A classifier as a page and an API over HTTP. FastAPI and Uvicorn, an extra, are loaded when it is served."""

from featx.serving.server import serve as serve
