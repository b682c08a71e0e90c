"""Which models are here, and, for whoever has the admin key, loading and unloading them."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from serve.auth import Caller
from serve.config import ModelSource
from serve.errors import InvalidRequest
from serve.models import Served
from serve.schemas import ModelEntry, ModelList
from serve.service import ERRORS, Service, caller_of


class LoadRequest(BaseModel):
    """`POST /admin/models`: see `serve.config.ModelSource`; `replace` swaps what has the name."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"source": "run/tiny/tiny", "replace": True}]}
    )

    source: str = Field(min_length=1, description="folder, hub id or shipped name")
    name: str | None = Field(default=None, description="what clients call it: the source's own name unless given")
    weights: Path | None = None
    tokenizer: str | None = None
    revision: str | None = None
    replace: StrictBool = False


def models_router(service: Service) -> APIRouter:
    """`/v1/models`."""
    router = APIRouter(tags=["models"])
    allowed = Depends(caller_of(service))

    @router.get("/v1/models", responses=ERRORS)
    async def models(_: Annotated[Caller, allowed]) -> ModelList:
        """Every model that is served; the first draws for requests that name none."""
        return ModelList(data=[_entry(service, one) for one in service.models.served.values()])

    @router.get("/v1/models/{name:path}", responses=ERRORS)
    async def model(name: str, _: Annotated[Caller, allowed]) -> ModelEntry:
        """One model, by its name or an alias."""
        found = service.models.find(name)
        return _entry(service, service.models.served[found.info.name])

    return router


def admin_router(service: Service) -> APIRouter:
    """`/admin/models`, behind a key of its own."""

    # the key itself is looked at by `KeyGuard`; this is for the documentation
    router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.post("/models", responses=ERRORS)
    async def load(request: LoadRequest) -> ModelEntry:
        """Load a model and serve it. With `replace` it takes the place of the one that has its name, failing no request."""
        fields = request.model_dump(exclude={"replace", "name"})
        try:
            source = ModelSource(**fields, name=request.name or ModelSource.parse(request.source).name)
            return _entry(service, await service.models.load(source, replace=request.replace))
        except ValidationError as error:
            raise InvalidRequest(f"name: {error.errors()[0]['msg']}", param="name") from None
        except ValueError as error:
            raise InvalidRequest(str(error), param="source") from None

    @router.delete("/models/{name:path}", status_code=204, responses=ERRORS)
    async def unload(name: str) -> None:
        """Serve a model no longer; what it has accepted it finishes."""
        await service.models.unload(name)

    return router


def _entry(service: Service, served: Served) -> ModelEntry:
    info = served.backend.info
    return ModelEntry(
        id=info.name,
        created=served.since,
        image_size=info.image_size,
        image_tokens=info.image_tokens,
        sampling=info.recipe.as_dict(),
        aliases=service.models.aliases_of(info.name),
    )
