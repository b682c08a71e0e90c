"""PairComp's cases on the page: search by category, number or words, and copy a pair into the prompts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from pairs.paircomp import Case

_ALL = "All"
_PER_PAGE = 10


def build_paircomp(cases: Sequence[Case], first: gr.Textbox, second: gr.Textbox) -> None:
    """Build the section of the page; choosing a case fills in the two prompts."""
    categories = list(dict.fromkeys(case.category for case in cases))
    found, listed, before, after = _page(cases, 0)
    with gr.Accordion(f"PairComp ({len(cases)} pairs)", open=False, elem_id="paircomp"):
        with gr.Row():
            category = gr.Dropdown([_ALL, *categories], value=_ALL, label="Category", elem_id="paircomp-category")
            words = gr.Textbox("", label="Words, or a case's number", elem_id="paircomp-words")
        choice = gr.Radio(listed, label="Choose a pair", elem_id="paircomp-cases")
        with gr.Row():
            back = gr.Button("Previous", size="sm", interactive=before, elem_id="paircomp-back")
            said = gr.Markdown(found, elem_id="paircomp-found")
            on = gr.Button("Next", size="sm", interactive=after, elem_id="paircomp-on")
        start = gr.State(0)

    def show(chosen: str, text: str, at: int = 0, by: int = 0) -> tuple[Any, ...]:
        some = matching(cases, None if chosen == _ALL else chosen, text)
        last = max(0, len(some) - 1) // _PER_PAGE * _PER_PAGE
        at = min(max(at + by, 0), last)
        found, listed, before, after = _page(some, at)
        choices = gr.update(choices=listed, value=None)
        return found, choices, at, gr.update(interactive=before), gr.update(interactive=after)

    shown = [said, choice, start, back, on]
    for box in (category, words):
        box.change(show, [category, words], shown, queue=False)
    for button, by in ((back, -_PER_PAGE), (on, _PER_PAGE)):
        button.click(partial(show, by=by), [category, words, start], shown, queue=False)
    # clear the choice, so that the same pair can be chosen again after its prompts were edited
    choice.input(
        lambda number: (*cases[number].prompts, None),
        choice,
        [first, second, choice],
        show_progress="hidden",
        queue=False,
    )


def matching(cases: Sequence[Case], category: str | None, text: str) -> list[Case]:
    """Cases of a category (None: all) whose number is `text`, or that have all its words in one prompt."""
    words = text.casefold().split()
    return [
        case
        for case in cases
        if category in (None, case.category)
        and (words == [str(case.number)] or any(all(w in prompt.casefold() for w in words) for prompt in case.prompts))
    ]


def _page(cases: Sequence[Case], start: int) -> tuple[str, list[tuple[str, int]], bool, bool]:
    """Text that says which cases are shown, the choices: (label, case number), and whether more are before and after."""
    if not cases:
        return "No pair has that.", [], False, False
    shown = cases[start : start + _PER_PAGE]
    labels = [(f"{case.number} · {case.category}: {' / '.join(case.prompts)}", case.number) for case in shown]
    end = start + len(shown)
    return f"{start + 1} to {end} of {len(cases)}", labels, start > 0, end < len(cases)
