"""The HTTP application: routes, middleware and error handlers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Scope

from pairs.judges.opening import open_judge
from serve.backends.registry import Registry
from serve.http.a1111.routes import a1111_router
from serve.http.cancellation import ClientGone
from serve.http.errors import ApiError, Crowded, InvalidRequest, NotFound, TooLarge, error_answer
from serve.http.guards.body_budget import BodyBudget
from serve.http.guards.body_limit import BodyLimit
from serve.http.guards.keys import KeyGuard, Keys
from serve.http.guards.rates import Limiter
from serve.http.guards.request_context import RequestContext
from serve.http.guards.slashes import SinglePathSlashes
from serve.http.guards.unmatched import Unmatched
from serve.http.judging import ServedJudge
from serve.http.metrics import Metrics
from serve.http.routes.images import images_router
from serve.http.routes.judgements import judgements_router
from serve.http.routes.models import admin_router, models_router
from serve.http.routes.operation import operation_router
from serve.http.routes.pairs import pairs_router
from serve.http.routes.training import training_router
from serve.http.service import Service, keys_of
from serve.http.store import Store
from serve.settings.server import Settings
from serve.upscaling.upscaler import Upscaler

logger = logging.getLogger("focusdiff")
Task = Callable[[], Coroutine[Any, Any, None]]


def create_app(
    settings: Settings,
    registry: Registry,
    store: Store,
    metrics: Metrics,
    *,
    upscaler: Upscaler | None = None,
    background: tuple[Task, ...] = (),
) -> FastAPI:
    """Build the application.

    Args:
        settings: settings of the server.
        registry: the models; closed when the application stops.
        store: pictures that answers link to.
        metrics: counters of requests and events.
        upscaler: what enlarges pictures, if not Lanczos's filter; closed when the application stops.
        background: coroutine functions that run from start to stop.

    Raises:
        JudgeError: the judge cannot be opened.
    """
    judge = settings.judge_settings
    service = Service(
        registry=registry,
        metrics=metrics,
        keys=Keys(settings.keys),
        admin=keys_of(settings.admin_key),
        limiter=Limiter(settings.rate_limit),
        store=store,
        judge=None if judge is None else ServedJudge(open_judge(judge)),
        upscaler=upscaler,
        request_seconds=settings.request_seconds,
        fit=settings.fit,
        strict=settings.strict,
        public_url=str(settings.public_url) if settings.public_url else None,
        log_prompts=settings.log_prompts,
        watch=settings.watch,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(task()) for task in (store.sweep, *background)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await registry.close()
        if upscaler is not None:
            await asyncio.to_thread(upscaler.close)

    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="FocusDiff",
        version=version("focusdiff"),
        summary="Autoregressive text-to-image models over OpenAI's Images API.",
        lifespan=lifespan,
        # traces go to OTEL_EXPORTER_OTLP_ENDPOINT, if set; metrics and logs are exported separately
        telemetry={"auto_configure": True, "metrics": False, "logs": False, "exclude": _is_probe},
    )
    makers = (images_router, pairs_router, judgements_router, models_router, training_router, operation_router)
    routers = [make(service) for make in makers]
    if settings.a1111:
        routers.append(a1111_router(service))
    if service.admin.needed:
        routers.append(admin_router(service))
    for router in routers:
        app.include_router(router)
    own = [route for route in app.routes if hasattr(route, "path")]
    unmatched = Unmatched([*own, *(route for router in routers for route in router.routes)])
    for path in ("/v1", "/admin", "/sdapi", "/health", "/metrics", "/docs", "/openapi.json"):
        app.router.routes += [Route(path, unmatched), Route(path + "/{rest:path}", unmatched)]
    app.add_middleware(KeyGuard, keys=service.keys, admin=service.admin)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "x-request-id", "x-ignored-fields"],
        )
    budget = BodyBudget(settings.bodies_mib, settings.body_seconds)
    metrics.watch_bodies(lambda: budget.held)
    app.add_middleware(BodyLimit, mib=settings.max_body_mib, budget=budget)
    app.add_middleware(RequestContext, metrics=metrics)
    app.add_middleware(SinglePathSlashes)
    _answer_errors(app)
    return app


def _is_probe(scope: Scope) -> bool:
    return str(scope.get("path")).startswith(("/health", "/metrics"))


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ClientGone)
    async def client_gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return error_answer(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # list indices and union members follow the field's name
        param = next((part for part in first["loc"] if isinstance(part, str) and part != "body"), None)
        return error_answer(InvalidRequest(f"{param or 'body'}: {first['msg']}", param=param), request.url.path)

    @app.exception_handler(HTTPException)
    async def refused_by_framework(request: Request, error: HTTPException) -> JSONResponse:
        kind = {404: NotFound, 413: TooLarge, 503: Crowded}.get(error.status_code, InvalidRequest)
        answer = error_answer(kind(str(error.detail)), request.url.path)
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer
