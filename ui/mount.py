"""Mounting of the demo page on an application."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from pairs.paircomp import read_cases
from ui.page import STYLE, build_page, theme
from ui.votes import Votes


def mount(app: FastAPI, server: str, votes: Path, paircomp: Path | None = None) -> FastAPI:
    """Mount the page at / of an application.

    Args:
        app: the application.
        server: URL of the server whose API the page uses.
        votes: SQLite file for the blind votes.
        paircomp: PairComp.json, to choose pairs from.

    Raises:
        ValueError: the file of votes cannot be used, or the cases cannot be read.
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
