"""`focusdiff-serve`: a model behind OpenAI's Images API."""

import argparse

from model.cli import add_model_arguments, one_line_errors


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-serve", description="Serve a Janus checkpoint over OpenAI's Images API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
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

    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, not {arguments.port}")
    janus = load_from(arguments)
    if janus.tokenizer is None:
        raise CheckpointError(f"{janus.name} has no tokenizer; name one with --tokenizer")
    print(f"{janus.name} on {janus.device}: http://{arguments.host}:{arguments.port}/docs", flush=True)
    uvicorn.run(create_app(LocalBackend(janus)), host=arguments.host, port=arguments.port, log_level="info")


if __name__ == "__main__":
    main()
