"""Life cycle of the server: listen, load, serve, drain, stop."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from serve.backends.registry import Registry
from serve.backends.watch import follow
from serve.http.app import create_app
from serve.http.connections.census import Census
from serve.http.connections.limits import ConnectionLimits, fitting, networks
from serve.http.connections.protocol import BoundedProtocol
from serve.http.metrics import Metrics
from serve.http.store import Store
from serve.settings.server import Settings
from serve.upscaling.upscaler import Upscaler

logger = logging.getLogger("focusdiff")
_POLL_SECONDS = 0.05
_KEEP_ALIVE_SECONDS = 75  # longer than proxies and clients: they must never send to a connection just closed


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a TCP socket; port 0 picks a free port.

    Raises:
        OSError: the address cannot be bound.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise OSError(f"cannot listen on {host} port {port}: {error.strerror}") from None
        yield listener


def _own_url(listener: socket.socket) -> str:
    """URL of a bound socket on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """HTTP server that answers while models load, and finishes accepted requests before it stops.

    failure: the error that kept it from becoming ready, if any.
    died: whether an engine has failed.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: Store,
        listener: socket.socket,
        upscaler: Upscaler | None = None,
    ) -> None:
        registry.loading = True
        self._metrics = Metrics(registry)
        self._upscaler = upscaler
        app = create_app(settings, registry, store, self._metrics, upscaler=upscaler, background=(self._load,))
        if settings.ui:
            from ui.mount import mount

            app = mount(app, _own_url(listener), settings.votes, settings.paircomp)
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ws="none",
            server_header=False,
        )
        super().__init__(config)
        limits = ConnectionLimits(
            header_bytes=int(settings.header_kib * 1024),
            headers=settings.headers,
            header_seconds=settings.header_seconds,
            body_seconds=settings.body_seconds,
            connections=fitting(settings.connections),
            per_address=settings.connections_per_address,
            exempt=networks(config.forwarded_allow_ips or ""),
        )
        self.server_state = Census(limits, self._metrics.refuse_connection)
        self._settings = settings
        self._registry = registry
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: Exception | None = None
        self.died = False

    def serve_until_stopped(self) -> None:
        """Run the server; blocks until it has stopped."""
        self.run(sockets=[self._listener])

    def die(self) -> None:
        """Stop because an engine has failed, once the other models have finished; callable from any thread."""
        self.died |= not self.force_exit  # with force_exit it was killed on purpose
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._drain(), self._loop)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at once at the second."""
        if self._loop is None:
            self.should_exit = True  # no request was accepted yet
        elif self._registry.state == "draining":
            self.should_exit = self.force_exit = True
            # answers those who wait before their connections are closed; on the loop, because it takes a lock
            self._loop.call_soon_threadsafe(self._registry.abandon)
            self._registry.kill()
            self._stop_upscaler()
        else:
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop)

    async def _load(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            if self._upscaler is not None:
                await self._upscaler.load()
            for source in self._settings.sources:
                await self._registry.load(source)
            self._registry.loading = False
        except Exception as error:
            if self._registry.state == "draining":
                return  # stopped while loading
            if not isinstance(error, ValueError):
                logger.exception("the models cannot be loaded")
            self.failure = error
            self.should_exit = True
            return
        url = _own_url(self._listener)
        logger.info("%s: %s", ", ".join(self._registry.served), url)
        if self._settings.ui:
            from ui.examples import FIRST

            logger.info('open %s in a browser, and draw "%s" beside "%s"', url, FIRST.first, FIRST.second)
        if self._settings.watch is not None:
            await follow(self._registry, self._settings.watch)

    async def _drain(self) -> None:
        """Wait until every answer is complete, at most `drain_seconds`, then stop."""
        self._registry.drain()
        limit = self._settings.drain_seconds
        logger.info("stopping: finishing accepted requests within %g seconds", limit)
        try:
            async with asyncio.timeout(limit):
                while self._registry.busy or self._metrics.open:
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            logger.warning("cancelling the requests that are unfinished after %g seconds", limit)
            self._registry.abandon()
            self._stop_upscaler()
        self.should_exit = True

    def _stop_upscaler(self) -> None:
        if self._upscaler is not None:
            self._upscaler.stop()
