"""The HTTP face of one volume (FastAPI), as served on its control socket.

GET    /healthz                    200 while the volume answers its clients
GET    /v1/status                  what there is to know now
GET    /v1/points[?at=MOMENT]      retained consistency points; what a moment is
POST   /v1/points                  cut one now
GET    /v1/snapshots               named moments
POST   /v1/snapshots {"name"}      name the present (201)
DELETE /v1/snapshots/NAME          forget a name (204)
POST   /v1/grow {"size"}           make the volume larger; bytes
POST   /v1/promote [{"nbd"}]       make a mirror a primary, which also listens at these addresses
DELETE /v1/mirrors/NAME            give a mirror up (204)
POST   /v1/mirrors/NAME {"yes"}    forget which copy a mirror is: another may become it

Errors are problem+json with the codes of the command line. A handler holds no logic of its own; all of
them are ``async``, so that they run in the loop that owns the volume and never in a thread.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from revolume import __version__
from revolume.api.control import Control
from revolume.api.problems import MEDIA_TYPE, problem
from revolume.api.shapes import PointShape, PointsShape, PromotedShape, SnapshotShape
from revolume.errors import NotFound, RevolumeError, UsageError


class SnapshotRequest(BaseModel):
    """The name that the present shall have."""

    name: str = Field(max_length=4096)


class GrowRequest(BaseModel):
    """The size that the volume shall have, in bytes."""

    size: int = Field(ge=0, le=2**60)


class PromoteRequest(BaseModel):
    """Where clients shall find the new primary as well: ``unix:PATH``, ``HOST:PORT``."""

    nbd: list[Annotated[str, Field(max_length=4096)]] = Field(default=[], max_length=64)
    others: list[Annotated[str, Field(max_length=4096)]] = Field(default=[], max_length=64)
    """Other mirrors, which must not have more than this one."""
    yes: bool = False


class ReplaceRequest(BaseModel):
    """``yes``: also where answers rest on a copy that is away."""

    yes: bool = False


class ReplaceAnswer(BaseModel):
    """What was given up, in a sentence."""

    told: str


class SizeAnswer(BaseModel):
    """The size that the volume has, in bytes."""

    size: int


def application(control: Control) -> FastAPI:
    """The face of ``control``."""
    app = FastAPI(title="Revolume", version=__version__, docs_url=None, redoc_url=None)
    _answer_errors(app)
    _answer_state(app, control)
    _answer_snapshots(app, control)
    _answer_mirroring(app, control)
    return app


def _answer_state(app: FastAPI, control: Control) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        return control.status()

    @app.get("/v1/points")
    async def points(at: Annotated[str | None, Query(max_length=4096)] = None) -> PointsShape:
        return control.points(at)

    @app.post("/v1/points", status_code=201)
    async def cut() -> PointShape:
        return await control.cut()

    @app.post("/v1/grow")
    async def grow(asked: GrowRequest) -> SizeAnswer:
        return SizeAnswer(size=await control.grow(asked.size))


def _answer_snapshots(app: FastAPI, control: Control) -> None:
    @app.get("/v1/snapshots")
    async def snapshots() -> list[SnapshotShape]:
        return control.snapshots()

    @app.post("/v1/snapshots", status_code=201)
    async def snapshot(asked: SnapshotRequest) -> SnapshotShape:
        return await control.snapshot(asked.name)

    @app.delete("/v1/snapshots/{name}", status_code=204)
    async def drop_snapshot(name: str) -> None:
        await control.drop_snapshot(name)


def _answer_mirroring(app: FastAPI, control: Control) -> None:
    @app.post("/v1/promote")
    async def promote(asked: PromoteRequest | None = None) -> PromotedShape:
        if asked is None:
            return await control.promote()
        return await control.promote(asked.nbd, asked.others, asked.yes)

    @app.delete("/v1/mirrors/{name:path}", status_code=204)  # an address is a name too, and may hold slashes
    async def detach(name: str) -> None:
        await control.detach(name)

    @app.post("/v1/mirrors/{name:path}")
    async def replace(name: str, asked: ReplaceRequest) -> ReplaceAnswer:
        return ReplaceAnswer(told=await control.replace_mirror(name, asked.yes))


# --- errors --------------------------------------------------------------------------------------------


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RevolumeError)
    async def known(_: Request, error: RevolumeError) -> JSONResponse:
        return _problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _problem_response(UsageError("bad-request", f"{place}: {first['msg']}."))

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return _problem_response(NotFound("no-such-path", f"There is nothing at {request.url.path!a}."))
        told = UsageError("bad-request", f"{request.method} {request.url.path!a}: {error.detail}.")
        return _problem_response(told, error.status_code)


def _problem_response(error: RevolumeError, status: int | None = None) -> JSONResponse:
    fitting, body = problem(error)
    body["status"] = status or fitting
    return JSONResponse(body, body["status"], media_type=MEDIA_TYPE)
