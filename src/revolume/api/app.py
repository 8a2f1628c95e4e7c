"""The HTTP face of one volume (FastAPI), as served on its control socket.

GET    /healthz                    200 while the volume answers its clients
GET    /v1/status                  what there is to know now
GET    /v1/points[?at=MOMENT]      retained consistency points; what a moment is
GET    /v1/changes?start&end&limit the newest writes that changed these bytes
GET    /v1/proofs                  what commands found of moments
POST   /v1/proofs {"write", …}     note it: verdict, duration_ms, command (201)
GET    /v1/usage                   what holds how much of the disk
POST   /v1/points                  cut one now
GET    /v1/snapshots               named moments
POST   /v1/snapshots {"name", …}   name the present (201); expires: for so many seconds
PATCH  /v1/snapshots/NAME {"held"} keep it from being dropped, or not any more (204)
DELETE /v1/snapshots/NAME          forget a name (204)
DELETE /v1/branches/NAME           give up what this copy once wrote alone (204)
GET    /v1/clones                  the clones, as status has them
POST   /v1/clones {"name", …}      a writable volume over a moment (201): moment, at, suspect
DELETE /v1/clones/NAME             remove a clone with all that was written to it (204)
GET    /v1/keep                    what is kept of the past, and in how much room
POST   /v1/keep {"policy", …}      keep something else from now on: budget, when_full; dry_run: only say what goes
POST   /v1/grow {"size"}           make the volume larger; bytes
POST   /v1/promote [{"nbd"}]       make a mirror a primary, which also listens at these addresses
POST   /v1/demote [{"listen"}]     make a primary a mirror, which listens for a source there
POST   /v1/switchover {"to"}       hand over to a mirror, and become its mirror
POST   /v1/restore {"to", …}       bring the volume back to a moment, or say what that would change
GET    /v1/mirrors                 the mirrors, as status has them
POST   /v1/mirrors {"name", …}     one more mirror (201): address, mode, history, peer, on_lost, deadline
PATCH  /v1/mirrors/NAME {…}        another address, mode, peer, on_lost or deadline
DELETE /v1/mirrors/NAME            give a mirror up (204)
POST   /v1/resync {"mirrors", …}   bring mirrors up to date, or say how that would be done
GET    /v1/jobs                    long operations: those that run, and those that have ended lately
POST   /v1/jobs {"kind", …}        begin one (202); the rest is what the kind is ordered to do
GET    /v1/jobs/ID                 how far it has come, or how it ended
DELETE /v1/jobs/ID                 end it now
POST   /v1/mirrors/NAME {"yes"}    forget which copy a mirror is: another may become it

Errors are problem+json with the codes of the command line. A handler holds no logic of its own; all of
them are ``async``, so that they run in the loop that owns the volume and never in a thread.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from revolume import __version__
from revolume.api.clone_schemas import CloneOrder, CloneSchema
from revolume.api.control import AdminApi
from revolume.api.moment_schemas import (
    ChangeSchema,
    PointSchema,
    PointsSchema,
    SnapshotSchema,
)
from revolume.api.problems import MEDIA_TYPE, problem
from revolume.api.proof_schemas import ProofSchema
from revolume.api.retention_routes import answer_retention
from revolume.api.schemas import (
    UNDO_FOR_S,
    AddedMirrorSchema,
    DemotedSchema,
    JobSchema,
    MirrorOrder,
    MirrorSetSchema,
    PromotedSchema,
    RestoredSchema,
    RestoreOrder,
    ResyncOrder,
    ResyncSchema,
    SwitchedSchema,
)
from revolume.errors import NotFound, RevolumeError, UsageError
from revolume.history.moments import SPAN_SECONDS_MAX
from revolume.history.usage import Usage


class SnapshotRequest(BaseModel):
    """The name for the snapshot. ``expires``: in seconds for which the volume is open; 0: never."""

    name: str = Field(max_length=4096)
    expires: float = Field(default=0.0, ge=0, le=SPAN_SECONDS_MAX)


class GrowRequest(BaseModel):
    """The new size of the volume, in bytes."""

    size: int = Field(ge=0, le=2**60)


class PromoteRequest(BaseModel):
    """``nbd``: addresses at which the new primary listens as well (``unix:PATH``, ``HOST:PORT``)."""

    nbd: list[Annotated[str, Field(max_length=4096)]] = Field(default=[], max_length=64)
    others: list[Annotated[str, Field(max_length=4096)]] = Field(default=[], max_length=64)
    """Other mirrors, which must not have more than this one."""
    yes: bool = False


class DemoteRequest(BaseModel):
    """``listen``: where it listens for a source, if that is not recorded. ``yes``: clients are disconnected."""

    listen: str | None = Field(default=None, max_length=4096)
    yes: bool = False


class SwitchoverRequest(BaseModel):
    """``to``: the mirror's name. ``listen``: where this node listens as a mirror, if that is not recorded."""

    to: str = Field(max_length=255)
    listen: str | None = Field(default=None, max_length=4096)


class RestoreRequest(BaseModel):
    """``to``: a moment, as behind the @ of an export's name; or ``undo``. ``begin``, ``end``: bytes. ``undo_for``:
    so many seconds, for which the volume is open, the state before is kept as a snapshot; 0: until it is dropped.
    """

    to: str = Field(default="", max_length=4096)
    undo: bool = False
    begin: int | None = Field(default=None, ge=0, le=1 << 60)
    end: int | None = Field(default=None, ge=0, le=1 << 60)
    dry_run: bool = False
    yes: bool = False
    disconnect: bool = False
    undo_for: float = Field(default=UNDO_FOR_S, ge=0, le=SPAN_SECONDS_MAX)


class MirrorRequest(BaseModel):
    """What is asked for of a mirror; what is left out stays as it is, or is the default."""

    address: str | None = Field(default=None, max_length=4096)
    mode: str | None = Field(default=None, max_length=16)
    history: str | None = Field(default=None, max_length=16)
    peer: str | None = Field(default=None, max_length=255)
    on_lost: str | None = Field(default=None, max_length=16)
    deadline: float | None = None


class AddMirrorRequest(MirrorRequest):
    """A mirror that is to be added."""

    name: str = Field(max_length=255)
    address: str = Field(max_length=4096)


class CloneRequest(BaseModel):
    """A clone that is to be made; ``at``: an absolute path, "" for the volume's own directory."""

    name: str = Field(max_length=255)
    moment: str = Field(default="now", max_length=4096)
    at: str = Field(default="", max_length=4096)
    suspect: bool = False


class ProofRequest(BaseModel):
    """What a command found of the moment after ``write``: passed, failed or timed-out."""

    write: int = Field(ge=0, le=2**63 - 1)
    verdict: str = Field(max_length=64)
    duration_ms: int = Field(ge=0, le=2**53)
    command: str = Field(max_length=4096)


class ReplaceRequest(BaseModel):
    """``yes``: replace the mirror even if clients' answers wait for the copy that is given up."""

    yes: bool = False


class ReplaceAnswer(BaseModel):
    """What was given up, in a sentence."""

    told: str


class ResyncRequest(BaseModel):
    """Names of mirrors, none for all; what is preferred: auto, history, bytes."""

    mirrors: list[Annotated[str, Field(max_length=255)]] = Field(default=[], max_length=64)
    prefer: str = Field(default="auto", max_length=16)
    take_back: bool = False
    dry_run: bool = False
    rate: int | None = Field(default=None, ge=0, le=1 << 60)
    window: str | None = Field(default=None, max_length=16)
    cancel: bool = False


class JobRequest(BaseModel):
    """``kind``: scrub, …; what stands beside it are the orders of that kind."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(max_length=64)


class SizeAnswer(BaseModel):
    """The size that the volume has, in bytes."""

    size: int


def application(control: AdminApi) -> FastAPI:
    """The HTTP application that answers for ``control``."""
    app = FastAPI(title="Revolume", version=__version__, docs_url=None, redoc_url=None)
    _answer_errors(app)
    _answer_state(app, control)
    answer_retention(app, control)
    _answer_snapshots(app, control)
    _answer_clones(app, control)
    _answer_roles(app, control)
    _answer_mirroring(app, control)
    _answer_jobs(app, control)
    return app


def _answer_state(app: FastAPI, control: AdminApi) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        return control.status()

    @app.get("/v1/points")
    async def points(at: Annotated[str | None, Query(max_length=4096)] = None) -> PointsSchema:
        return control.points(at)

    @app.get("/v1/changes")
    async def changes(start: int, end: int, limit: int = 20) -> list[ChangeSchema]:
        return control.changes(start, end, limit)

    @app.get("/v1/proofs")
    async def proofs() -> list[ProofSchema]:
        return control.proofs()

    @app.post("/v1/proofs", status_code=201)
    async def prove(asked: ProofRequest) -> ProofSchema:
        return await control.prove(asked.write, asked.verdict, asked.duration_ms, asked.command)

    @app.get("/v1/usage")
    async def usage() -> Usage:
        return await control.usage()

    @app.post("/v1/points", status_code=201)
    async def cut() -> PointSchema:
        return await control.cut()

    @app.post("/v1/grow")
    async def grow(asked: GrowRequest) -> SizeAnswer:
        return SizeAnswer(size=await control.grow(asked.size))


def _answer_snapshots(app: FastAPI, control: AdminApi) -> None:
    @app.get("/v1/snapshots")
    async def snapshots() -> list[SnapshotSchema]:
        return await control.snapshots_with_room()

    @app.post("/v1/snapshots", status_code=201)
    async def snapshot(asked: SnapshotRequest) -> SnapshotSchema:
        return await control.snapshot(asked.name, asked.expires)

    @app.delete("/v1/snapshots/{name}", status_code=204)
    async def drop_snapshot(name: str) -> None:
        await control.drop_snapshot(name)

    @app.delete("/v1/branches/{name}", status_code=204)
    async def drop_branch(name: str) -> None:
        await control.drop_branch(name)


def _answer_clones(app: FastAPI, control: AdminApi) -> None:
    @app.get("/v1/clones")
    async def clones() -> list[Any]:
        return list(control.status().get("clones", ()))

    @app.post("/v1/clones", status_code=201)
    async def make_clone(asked: CloneRequest) -> CloneSchema:
        return await control.make_clone(CloneOrder(**asked.model_dump()))

    @app.delete("/v1/clones/{name}", status_code=204)
    async def drop_clone(name: str) -> None:
        await control.drop_clone(name)


def _answer_roles(app: FastAPI, control: AdminApi) -> None:
    @app.post("/v1/promote")
    async def promote(asked: PromoteRequest | None = None) -> PromotedSchema:
        if asked is None:
            return await control.promote()
        return await control.promote(asked.nbd, asked.others, asked.yes)

    @app.post("/v1/demote")
    async def demote(asked: DemoteRequest) -> DemotedSchema:
        return await control.demote(asked.listen, asked.yes)

    @app.post("/v1/switchover")
    async def switch_over(asked: SwitchoverRequest) -> SwitchedSchema:
        return await control.switch_over(asked.to, asked.listen)

    @app.post("/v1/restore")
    async def restore(asked: RestoreRequest) -> RestoredSchema:
        return await control.restore(RestoreOrder(**asked.model_dump()))


def _answer_mirroring(app: FastAPI, control: AdminApi) -> None:
    @app.post("/v1/resync")
    async def resync(asked: ResyncRequest) -> list[ResyncSchema]:
        order = ResyncOrder(
            tuple(asked.mirrors), asked.prefer, asked.take_back, asked.dry_run, asked.rate, asked.window,
            asked.cancel,
        )  # fmt: skip
        return await control.resync(order)

    @app.get("/v1/mirrors")
    async def mirrors() -> list[Any]:
        return list(control.status().get("mirrors", ()))

    @app.post("/v1/mirrors", status_code=201)
    async def add_mirror(asked: AddMirrorRequest) -> AddedMirrorSchema:
        return await control.add_mirror(MirrorOrder(**asked.model_dump()))

    @app.patch("/v1/mirrors/{name:path}")
    async def set_mirror(name: str, asked: MirrorRequest) -> MirrorSetSchema:
        return await control.set_mirror(MirrorOrder(name, **asked.model_dump()))

    @app.delete("/v1/mirrors/{name:path}", status_code=204)  # an address is a name too, and may hold slashes
    async def detach(name: str) -> None:
        await control.detach(name)

    @app.post("/v1/mirrors/{name:path}")
    async def replace(name: str, asked: ReplaceRequest) -> ReplaceAnswer:
        return ReplaceAnswer(told=await control.replace_mirror(name, asked.yes))


def _answer_jobs(app: FastAPI, control: AdminApi) -> None:
    @app.get("/v1/jobs")
    async def jobs() -> list[JobSchema]:
        return control.jobs()

    @app.post("/v1/jobs", status_code=202)
    async def start_job(asked: JobRequest) -> JobSchema:
        return control.start_job(asked.kind, asked.model_extra or {})

    @app.get("/v1/jobs/{identity}")
    async def job(identity: str) -> JobSchema:
        return control.job(identity)

    @app.delete("/v1/jobs/{identity}")
    async def cancel_job(identity: str) -> JobSchema:
        return await control.cancel_job(identity)


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
