"""`focusdiff-serve`: serve models over OpenAI's Images API."""

import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from model.checkpoints.hub import find_here
from model.cli import run_command
from serve.settings.reading import ConfigError, read_settings
from serve.settings.server import Settings

if TYPE_CHECKING:
    from serve.backends.loader import ProcessLoader
    from serve.backends.triton.loader import TritonLoader
    from serve.upscaling.upscaler import Upscaler


def main() -> None:
    """Entry point of the console script."""
    run_command(lambda: serve(read_settings(Settings, sys.argv[1:])))


def serve(settings: Settings) -> None:
    """Listen, load the models and serve until stopped."""
    if settings.print_config:
        print(settings.model_dump_json(indent=2))
        return

    # end the process like SIGTERM until the server handles SIGINT: an import may swallow a KeyboardInterrupt
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    if settings.backend == "engine":
        for model in settings.models:
            find_here(model.source)  # a misspelt name is told before anything is imported
    upscaler = _upscaler(settings)
    loader = _loader(settings, on_death=lambda: server.die())

    import tempfile

    from serve.backends.registry import Registry
    from serve.http.store import Store
    from serve.logs import set_up_logging
    from serve.server import Server, listen

    set_up_logging(level=settings.log_level, format=settings.log_format)
    with tempfile.TemporaryDirectory(prefix="focusdiff-") as folder, listen(settings.host, settings.port) as socket:
        store = Store(settings.store or folder, seconds=settings.store_seconds, limit=int(settings.store_mib * 2**20))
        registry = Registry(loader, aliases=settings.aliases, stop_loading=loader.stop)
        server = Server(settings, registry, store, socket, upscaler)
        server.serve_until_stopped()
    if server.failure is not None:
        raise server.failure
    if server.died:
        sys.exit(1)  # so that a supervisor restarts the server


def _loader(settings: Settings, *, on_death: Callable[[], None]) -> "ProcessLoader | TritonLoader":
    if settings.backend == "triton":
        try:
            from serve.backends.triton.loader import TritonLoader
        except ImportError as error:
            raise ConfigError(f"--backend triton needs pip install 'focusdiff[triton]' ({error})") from None
        return TritonLoader(settings)

    from serve.backends.loader import ProcessLoader

    loader = ProcessLoader(settings, on_death=on_death)
    loader.start_ahead(len(settings.sources))  # they import while this process imports
    return loader


def _upscaler(settings: Settings) -> "Upscaler | None":
    if settings.upscaler is None:
        return None
    if find_spec("spandrel") is None:
        raise ConfigError("--upscaler needs pip install 'focusdiff[upscale]' (docs/api.md#upscaler)")

    from serve.upscaling.messages import LoadNetwork
    from serve.upscaling.upscaler import Upscaler

    return Upscaler(LoadNetwork(settings.upscaler, settings.device, settings.log_level, settings.log_format))


if __name__ == "__main__":
    main()
