"""The routes of what is kept of the past: the policy, and snapshots that are held (see ``app.py``)."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel, Field

from revolume.api.control import AdminApi
from revolume.api.keep_schemas import KeepOrder, KeepSchema


class HoldRequest(BaseModel):
    """``held``: nobody drops the snapshot until it is released."""

    held: bool


class KeepRequest(BaseModel):
    """What is left out stays as it is."""

    policy: str | None = Field(default=None, max_length=4096)
    budget: int | None = Field(default=None, ge=0, le=2**60)
    when_full: str | None = Field(default=None, max_length=16)
    dry_run: bool = False


def answer_retention(app: FastAPI, control: AdminApi) -> None:
    """Add these routes to ``app``."""

    @app.patch("/v1/snapshots/{name}", status_code=204)
    async def hold_snapshot(name: str, asked: HoldRequest) -> None:
        await control.hold_snapshot(name, asked.held)

    @app.get("/v1/keep")
    async def kept() -> KeepSchema:
        return control.kept()

    @app.post("/v1/keep")
    async def keep(asked: KeepRequest) -> KeepSchema:
        return await control.keep(KeepOrder(**asked.model_dump()))
