"""The routes of the server, and what its OpenAPI page says of them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from hjepa.deploy.serve.admission import Admission
from hjepa.deploy.serve.measured import Measured
from hjepa.deploy.serve.service import Service
from hjepa.version import __version__


class Health(BaseModel):
    """Whether the server answers, and with which encoder."""

    status: str = "ok"
    model: str = Field(description="Fingerprint of the weights and the preprocessing.")
    width: int = Field(description="Numbers per vector.")
    pooling: str
    level: str
    indexed_images: int = Field(description="Images that /search looks through.")


class Vector(BaseModel):
    """The vector of one image, or why there is none."""

    name: str
    vector: list[float] | None = None
    error: str | None = None


class Vectors(BaseModel):
    """Vectors in the order of the files."""

    model: str
    vectors: list[Vector]


class Neighbour(BaseModel):
    """An image of the index."""

    path: str
    similarity: float = Field(description="Cosine similarity.")


class Found(BaseModel):
    """The neighbours of one image, the most similar first, or why there are none."""

    name: str
    neighbours: list[Neighbour] | None = None
    error: str | None = None


class Neighbours(BaseModel):
    """Neighbours in the order of the files."""

    model: str
    results: list[Found]


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request is not valid multipart/form-data."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "A parameter is not valid, or there are too many files or none."},
    429: {"model": Problem, "description": "Too many requests are waiting; try again later."},
    500: {"model": Problem, "description": "The encoder failed."},
}


def create_app(service: Service) -> tuple[FastAPI, Measured]:
    """Return the application, and itself within the middleware that measures and admits requests."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="hjepa",
        version=__version__,
        description=f"Image vectors of {service.encoder.name}.",
        lifespan=lifespan,
        exception_handlers={RequestValidationError: _not_valid, Exception: _failed},
    )
    model = service.encoder.fingerprint

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers, and with which encoder."""
        images = 0 if service.index is None else len(service.index.embeddings)
        return Health(
            model=model, width=service.width, pooling=service.pooling, level=service.level, indexed_images=images
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters and latencies for Prometheus."""
        return PlainTextResponse(measured.text(), media_type="text/plain; version=0.0.4")

    files_field = File(description="Image files.", min_length=1, max_length=service.limits.max_images)
    Files = Annotated[list[UploadFile], files_field]

    @app.post("/embed", responses=PROBLEMS)
    async def embed(files: Files) -> Vectors:
        """Return the vector of each image; a file that cannot be read has its reason instead."""
        images = await _contents(files)
        found = await service.vectors(images)
        return Vectors(model=model, vectors=[_vector(name, one) for (name, _), one in zip(images, found, strict=True)])

    if service.index is not None:
        paths = service.index.embeddings.paths

        @app.post("/search", responses=PROBLEMS)
        async def search(files: Files, top: Annotated[int, Query(ge=1, le=1000)] = 10) -> Neighbours:
            """Return the most similar images of the index for each image; unreadable files have a reason instead."""
            images = await _contents(files)
            rows = []
            for (name, _), one in zip(images, await service.vectors(images), strict=True):
                if isinstance(one, str):
                    rows.append(Found(name=name, error=one))
                    continue
                matches = await service.neighbours(one[None], top)
                near = zip(matches.indices[0], matches.similarities[0], strict=True)
                found = [Neighbour(path=paths[place], similarity=round(float(value), 6)) for place, value in near]
                rows.append(Found(name=name, neighbours=found))
            return Neighbours(model=model, results=rows)

    _describe_files(app)
    known = {route.path for route in app.routes if hasattr(route, "path")}
    measured = Measured(Admission(app, service.limits), lambda: known)
    service.counted = measured.count
    return app, measured


def _describe_files(app: FastAPI) -> None:
    """Describe uploaded files as bytes of any kind: in multipart/form-data, a number is a text like any other.

    With ``type: string``, a client that tests the description would expect the file "1.1" to be refused.
    """
    described = app.openapi()
    for schema in described["components"]["schemas"].values():
        if "files" in schema.get("properties", {}):
            schema["properties"]["files"]["items"].pop("type", None)


def _vector(name: str, found: np.ndarray | str) -> Vector:
    return Vector(name=name, error=found) if isinstance(found, str) else Vector(name=name, vector=found.tolist())


async def _contents(files: Sequence[UploadFile]) -> list[tuple[str, bytes]]:
    """Return the names and bytes of uploaded files."""
    return [(_name(file, number), await file.read()) for number, file in enumerate(files)]


def _name(file: UploadFile, number: int) -> str:
    """Return a file's name as text on one line."""
    given = "".join(c if c.isprintable() else "?" for c in file.filename or "")[:200]
    return given.encode("utf-8", "replace").decode() or f"image {number}"


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    """Answer as all other problems are answered: with one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"detail": f"{where}: {first['msg']}"}, status_code=422)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"the encoder failed ({type(error).__name__})"}, status_code=500)
