"""The values of the training run that the server follows."""

import asyncio
import csv
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from serve.http.errors import NotFound
from serve.http.guards.keys import Caller
from serve.http.service import ERRORS, Service, caller_of


class TrainingCurve(BaseModel):
    """Answer of `GET /v1/training`: one list for each value, with an entry for each step, as in the run's curve.csv."""

    run: str = Field(description="name of the run's folder, and of the model that is its newest checkpoint")
    steps: list[int] = Field(description="empty before the first checkpoint")
    values: dict[str, list[float | None]]


def training_router(service: Service) -> APIRouter:
    """Route `/v1/training`."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/training", responses=ERRORS)
    async def training(_: Annotated[Caller, Depends(caller_of(service))]) -> TrainingCurve:
        """Values by step of the training run that the server follows (`--watch`), up to its newest checkpoint."""
        if service.watch is None:
            raise NotFound("no training run is followed: start the server with --watch FOLDER")
        return await asyncio.to_thread(read_curve, service.watch)

    return router


def read_curve(run: Path) -> TrainingCurve:
    """Read the values that a training run has written so far."""
    try:
        with open(run / "curve.csv", newline="") as file:  # replaced as a whole, never half written
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        rows = []
    names = [name for name in (rows[0] if rows else ()) if name != "step"]
    values = {name: [float(row[name]) if row[name] else None for row in rows] for name in names}
    return TrainingCurve(run=run.resolve().name, steps=[int(float(row["step"])) for row in rows], values=values)
