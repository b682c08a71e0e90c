"""`focusdiff-triton`: write a model repository for Triton, and serve it."""

import shlex
import sys

from model.cli import run_command
from serve.settings.reading import ConfigError, read_settings
from serve.triton.settings import TritonSettings


def main() -> None:
    """Entry point of the console script."""
    run_command(lambda: write_and_serve(read_settings(TritonSettings, sys.argv[1:])))


def write_and_serve(settings: TritonSettings) -> None:
    """Write the repository, then serve it or print the command that does."""
    try:
        from serve.triton.repository import write_repository
    except ImportError as error:
        raise ConfigError(f"focusdiff-triton needs pip install 'focusdiff[triton]' ({error})") from None

    names = write_repository(settings.repository, settings)
    print(f"{settings.repository}: {', '.join(names)}")
    if not settings.serve:
        print(
            f"serve it with: focusdiff-triton {shlex.quote(str(settings.repository))} --serve, or your own tritonserver"
        )
        return

    import asyncio
    import os

    from serve.logs import set_up_logging
    from serve.triton.launch import Installation
    from serve.triton.supervisor import supervise

    set_up_logging(level=settings.log_level, format=settings.log_format)
    found = Installation.find()
    shared = f"focusdiff-{os.getpid()}-"
    command = found.command(
        settings.repository.resolve(),
        host=settings.host,
        grpc_port=settings.grpc_port,
        http_port=settings.http_port,
        metrics_port=settings.metrics_port,
        drain_seconds=settings.drain_seconds,
        shared=shared,
        quiet=settings.log_level in ("warning", "error"),
    )
    url = f"{'127.0.0.1' if settings.host == '0.0.0.0' else settings.host}:{settings.grpc_port}"
    work = supervise(
        command,
        found.environment,
        url=url,
        models=names,
        silence_seconds=settings.silence_seconds,
        drain_seconds=settings.drain_seconds,
        shared=shared,
    )
    code = asyncio.run(work)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
