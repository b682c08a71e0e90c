"""The page on an application."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from pairs.paircomp import read_cases
from ui.page import STYLE, build_page, theme
from ui.votes import Votes


def mount(app: FastAPI, server: str, votes: Path, paircomp: Path | None = None) -> FastAPI:
    """Put the page at / of an application, as a client of the server at a URL.

    Args:
        app: the application.
        server: URL.
        votes: the file where they are kept.
        paircomp: PairComp.json, to choose pairs from.

    Raises:
        ValueError: votes cannot be kept there, or the cases cannot be read.
    """
    cases = read_cases(paircomp) if paircomp else ()
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        build_page(server, Votes(votes), cases),
        path="/",
        theme=theme(),
        css_paths=STYLE,
        footer_links=[],
        show_error=True,
    )
    return mounted
