"""List models and, with the admin key, load and unload them."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from serve.backends.errors import LastModel, NameTaken, NoModel, UnknownModel
from serve.backends.registry import Served
from serve.http.errors import Conflict, InvalidRequest, ModelNotFound, Unavailable
from serve.http.guards.keys import Caller
from serve.http.schemas import ModelEntry, ModelList
from serve.http.service import ERRORS, Service, caller_of
from serve.settings.model_source import ModelSource


class LoadRequest(BaseModel):
    """`POST /admin/models`: fields of `serve.settings.model_source.ModelSource`; `replace` replaces the model of that name."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"source": "run/tiny/tiny", "replace": True}]}
    )

    source: str = Field(min_length=1, description="folder, hub id or shipped name")
    name: str | None = Field(default=None, description="public name (default: the source's own name)")
    weights: Path | None = None
    tokenizer: str | None = None
    revision: str | None = None
    replace: StrictBool = False


def models_router(service: Service) -> APIRouter:
    """Routes `/v1/models`."""
    router = APIRouter(tags=["models"])
    allowed = Depends(caller_of(service))

    @router.get("/v1/models", responses=ERRORS)
    async def models(_: Annotated[Caller, allowed]) -> ModelList:
        """List the served models. Requests that name no model use the first."""
        return ModelList(data=[_entry(service, one) for one in service.registry.served.values()])

    @router.get("/v1/models/{name:path}", responses=ERRORS)
    async def model(name: str, _: Annotated[Caller, allowed]) -> ModelEntry:
        """Describe one model, by its name or an alias."""
        try:
            return _entry(service, service.registry.find(name))
        except UnknownModel as error:
            raise ModelNotFound(str(error), param="model", code="model_not_found") from None
        except NoModel as error:
            raise Unavailable(str(error)) from None

    return router


def admin_router(service: Service) -> APIRouter:
    """Routes `/admin/models`, which need the admin key."""

    # only for OpenAPI: `KeyGuard` checks the key
    router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.post("/models", responses=ERRORS)
    async def load(request: LoadRequest) -> ModelEntry:
        """Load a model and serve it. With `replace` it replaces the model of that name; no request fails."""
        fields = request.model_dump(exclude={"replace", "name"})
        try:
            source = ModelSource(**fields, name=request.name or ModelSource.parse(request.source).name)
            return _entry(service, await service.registry.load(source, replace=request.replace))
        except NameTaken as error:
            raise Conflict(str(error), param="name") from None
        except ValidationError as error:
            raise InvalidRequest(f"name: {error.errors()[0]['msg']}", param="name") from None
        except ValueError as error:
            raise InvalidRequest(str(error), param="source") from None

    @router.delete("/models/{name:path}", status_code=204, responses=ERRORS)
    async def unload(name: str) -> None:
        """Stop serving a model; it finishes the jobs it has accepted."""
        try:
            await service.registry.unload(name)
        except UnknownModel as error:
            raise ModelNotFound(str(error), param="name") from None
        except LastModel as error:
            raise Conflict(str(error), param="name") from None

    return router


def _entry(service: Service, served: Served) -> ModelEntry:
    info = served.backend.info
    return ModelEntry(
        id=info.name,
        created=served.since,
        image_size=info.image_size,
        image_tokens=info.image_tokens,
        sampling=info.sampling.as_dict(),
        aliases=service.registry.aliases_of(info.name),
    )
