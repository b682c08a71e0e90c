"""The page on an application."""

import gradio as gr
from fastapi import FastAPI

from ui.page import STYLE, build_page, theme


def mount(app: FastAPI, server: str) -> FastAPI:
    """Put the page at / of an application, as a client of the server at a URL."""
    return gr.mount_gradio_app(
        app, build_page(server), path="/", theme=theme(), css_paths=STYLE, footer_links=[], show_error=True
    )
