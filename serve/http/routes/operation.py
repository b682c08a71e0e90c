"""Health, metrics, and the pictures that answers link to."""

from fastapi import APIRouter, Response

from serve.http.schemas import Health
from serve.http.service import ERRORS, Service
from serve.http.store import MEDIA_TYPES


def operation_router(service: Service) -> APIRouter:
    """Routes `/health`, `/metrics` and `/v1/files`."""
    router = APIRouter(tags=["operation"])
    registry = service.registry

    @router.get("/health/live")
    async def live() -> Health:
        """200 while the process runs, whatever its state."""
        return Health(status=registry.state, models=list(registry.served))

    @router.get("/health", responses={503: {"model": Health}})
    @router.get("/health/ready", responses={503: {"model": Health}})
    async def ready(answer: Response) -> Health:
        """200 while requests are accepted; 503 while loading, draining or dead."""
        answer.status_code = 200 if registry.state == "ready" else 503
        return Health(status=registry.state, models=list(registry.served))

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    @router.get(
        "/v1/files/{name}",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}, 404: ERRORS[404]},
    )
    async def file(name: str) -> Response:
        """Download a picture of an answer with response_format url. No key is needed: the name cannot be guessed."""
        content = await service.store.get(name)
        media = MEDIA_TYPES[name.rpartition(".")[2]]
        return Response(content, media_type=media, headers={"Cache-Control": "private, max-age=3600"})

    return router
