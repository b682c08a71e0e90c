"""`focusdiff-ui`: the demo page alone, for any server."""

import argparse
import sys
from pathlib import Path

from pairs.files import user_file


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-ui", description="Compare two prompts, and two models, side by side."
    )
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="server's URL (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    parser.add_argument(
        "--votes",
        type=Path,
        default=user_file("votes.sqlite"),
        help="SQLite file for the votes (default: %(default)s)",
    )
    parser.add_argument("--paircomp", type=Path, help="PairComp.json, to choose pairs from")
    arguments = parser.parse_args()

    import uvicorn
    from fastapi import FastAPI

    from ui.mount import mount

    if not arguments.server.startswith(("http://", "https://")):
        print(f"error: --server must be a URL (http://…), not {arguments.server!r}", file=sys.stderr)
        sys.exit(2)
    try:
        app = mount(
            FastAPI(docs_url=None, redoc_url=None), arguments.server.rstrip("/"), arguments.votes, arguments.paircomp
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"http://{arguments.host}:{arguments.port} for {arguments.server}", flush=True)
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
