"""PairComp's cases on the page: by category, number or words, and into the prompts with one click."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from pairs.paircomp import Case

_ALL = "All"
_PER_PAGE = 10


def build_paircomp(cases: Sequence[Case], first: gr.Textbox, second: gr.Textbox) -> None:
    """The section of the page; a case that is chosen goes into the two prompts."""
    categories = list(dict.fromkeys(case.category for case in cases))
    with gr.Accordion(f"PairComp ({len(cases)} pairs)", open=False, elem_id="paircomp"):
        with gr.Row():
            category = gr.Dropdown([_ALL, *categories], value=_ALL, label="Category", elem_id="paircomp-category")
            words = gr.Textbox(label="Words, or a case's number", elem_id="paircomp-words")
        found = gr.Markdown(_said(cases), elem_id="paircomp-found")
        listed = gr.Dataset(
            components=[gr.Textbox(visible=False), gr.Textbox(visible=False)],
            **_listed(cases),
            label="Choose a pair",
            samples_per_page=_PER_PAGE,
            elem_id="paircomp-cases",
        )

    def search(chosen: str, text: str) -> tuple[str, Any]:
        some = matching(cases, None if chosen == _ALL else chosen, text)
        return _said(some), gr.Dataset(**_listed(some))

    for box in (category, words):
        box.change(search, [category, words], [found, listed], show_progress="hidden", queue=False)
    listed.click(lambda pair: pair, listed, [first, second], show_progress="hidden", queue=False)


def matching(cases: Sequence[Case], category: str | None, text: str) -> list[Case]:
    """The cases of a category, or of all, that have every word in one of their prompts, or the number."""
    words = text.casefold().split()
    return [
        case
        for case in cases
        if category in (None, case.category)
        and (words == [str(case.number)] or any(all(w in prompt.casefold() for w in words) for prompt in case.prompts))
    ]


def _listed(cases: Sequence[Case]) -> dict[str, Any]:
    labels = [f"{case.number} · {case.category}: {' / '.join(case.prompts)}" for case in cases]
    return {"samples": [list(case.prompts) for case in cases], "sample_labels": labels}


def _said(cases: Sequence[Case]) -> str:
    return {0: "No pair has that.", 1: "One pair."}.get(len(cases), f"{len(cases)} pairs.")
