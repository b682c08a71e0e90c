"""The page on an application."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from ui.page import STYLE, build_page, theme
from ui.votes import Votes


def mount(app: FastAPI, server: str, votes: Path) -> FastAPI:
    """Put the page at / of an application, as a client of the server at a URL; votes go to a file.

    Raises:
        ValueError: votes cannot be kept there.
    """
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        build_page(server, Votes(votes)),
        path="/",
        theme=theme(),
        css_paths=STYLE,
        footer_links=[],
        show_error=True,
    )
    return mounted
