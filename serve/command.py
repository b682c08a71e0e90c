"""`focusdiff-serve`: a model behind OpenAI's Images API."""

import argparse
import sys

from model.cli import add_model_arguments, one_line_errors


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-serve", description="Serve a Janus checkpoint over OpenAI's Images API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--slots", type=int, default=16, help="guided images drawn at once (default: 16)")
    parser.add_argument("--queue", type=int, default=256, help="images that may wait for a slot (default: 256)")
    add_model_arguments(parser)
    arguments = parser.parse_args()
    one_line_errors(lambda: serve(arguments))


def serve(arguments: argparse.Namespace) -> None:
    """Load the model, then listen until stopped."""
    import uvicorn

    from model.checkpoint import load_from
    from model.errors import CheckpointError
    from serve.app import create_app
    from serve.backend import LocalBackend
    from serve.schemas import MAX_IMAGES

    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, not {arguments.port}")
    for name, least in (("slots", 1), ("queue", MAX_IMAGES)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    janus = load_from(arguments)
    if janus.tokenizer is None:
        raise CheckpointError(f"{janus.name} has no tokenizer; name one with --tokenizer")

    def stop() -> None:
        server.should_exit = True

    backend = LocalBackend(janus, images=arguments.slots, queue_limit=arguments.queue, on_death=stop)
    server = uvicorn.Server(uvicorn.Config(create_app(backend), host=arguments.host, port=arguments.port))
    print(f"{janus.name} on {janus.device}: http://{arguments.host}:{arguments.port}/docs", flush=True)
    server.run()
    if backend.state == "dead":
        sys.exit(1)  # so that whoever supervises starts another


if __name__ == "__main__":
    main()
