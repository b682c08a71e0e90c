"""Blind voting: two models in random order without names, and the results so far."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ui.api import Api, ApiFailure
from ui.board import Board, board_view
from ui.settings import Comparison, SettingError
from ui.votes import Choice, Vote, Votes

_OFF = gr.update(interactive=False)
Draw = Callable[[Api, Comparison], AsyncIterator[Board]]


@dataclass(frozen=True)
class Ballot:
    """The comparison being voted on, with its models in the order shown."""

    comparison: Comparison

    @property
    def models(self) -> tuple[str, str]:
        """Models shown above (A) and below (B)."""
        above, below = self.comparison.models
        return above, below


def build_blind(
    url: str, votes: Votes, draw: Draw, comparison: Callable[..., Comparison], chosen: Sequence[gr.components.Component]
) -> None:
    """Build the section of the page; `chosen` are the inputs of `comparison`, then the API key."""
    with gr.Accordion("Which one follows its prompt better? (blind)", open=False, elem_id="blind"):
        gr.Markdown("Both models draw both prompts; which is which is shown after you voted.")
        start = gr.Button("Draw without names", elem_id="blind-draw")
        message = gr.HTML(elem_id="blind-status")
        board = board_view("blind-board")
        with gr.Row():
            buttons = [
                gr.Button(text, interactive=False, elem_id=f"vote-{choice}")
                for text, choice in (("A is better", "first"), ("B is better", "second"), ("Tie", "tie"))
            ]
        rates = gr.HTML(_rates(votes), elem_id="rates")
        with gr.Row():
            files = [
                gr.DownloadButton("Votes (CSV)", value=lambda: _csv(votes), elem_id="votes-csv"),
                gr.DownloadButton("Votes (JSONL)", value=lambda: _jsonl(votes), elem_id="votes-jsonl"),
            ]
        ballot = gr.State(None)

    async def begin(*inputs: Any) -> AsyncIterator[list[Any]]:
        *values, key = inputs
        try:
            wanted = comparison(*values)
            if len(wanted.models) < 2:
                raise SettingError("Choose two models.")
        except SettingError as error:
            yield [f'<p class="error" role="alert">{escape(str(error))}</p>', gr.skip(), None, *[_OFF] * 3]
            return
        order = wanted.models if secrets.randbelow(2) else wanted.models[::-1]
        one = Ballot(replace(wanted, models=order, n=1))
        try:
            async for drawn in draw(Api(url, key or None), one.comparison):
                yield [gr.skip(), _hidden(drawn), None, *[_OFF] * 3]
        except ApiFailure as failure:
            yield [f'<p class="error" role="alert">{escape(str(failure))}</p>', *[gr.skip()] * 5]
            return
        yield ["<p>Which one?</p>", gr.skip(), one, *[gr.update(interactive=True)] * 3]

    def vote(choice: Choice) -> Callable[[Ballot], list[Any]]:
        def keep(one: Ballot) -> list[Any]:
            above, below = one.models
            votes.add(Vote(above, below, choice, above, one.comparison.query, datetime.now(UTC).isoformat()))
            said = f"<p>Thank you. A was {escape(above)}, B was {escape(below)}.</p>"
            return [said, None, *[_OFF] * 3, _rates(votes), _csv(votes), _jsonl(votes)]

        return keep

    start.click(begin, chosen, [message, board, ballot, *buttons], show_progress="hidden", concurrency_limit=None)
    for button, choice in zip(buttons, ("first", "second", "tie"), strict=True):
        button.click(vote(choice), ballot, [message, ballot, *buttons, rates, *files], show_progress="hidden")  # type: ignore[arg-type]


def _hidden(board: Board) -> list[str]:
    """HTML of the board without names and facts, which would identify the models."""
    return board.html(names=dict(zip(board.models, "AB", strict=True)), facts=False)


def _rates(votes: Votes) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.first)}</td><td>{escape(one.second)}</td><td>{one.votes}</td>"
        f"<td>{one.rate:.0%} ({one.low:.0%} to {one.high:.0%})</td></tr>"
        for one in votes.win_rates()
    )
    if not rows:
        return "<p>No votes yet.</p>"
    head = "<tr><th>model</th><th>against</th><th>votes</th><th>preferred (95 %)</th></tr>"
    return f'<table class="judged">{head}{rows}</table>'


def _csv(votes: Votes) -> str:
    return _file("votes.csv", votes.as_csv())


def _jsonl(votes: Votes) -> str:
    return _file("votes.jsonl", votes.as_jsonl())


def _file(name: str, content: str) -> str:
    path = Path(tempfile.mkdtemp(prefix="focusdiff-ui-")) / name
    path.write_text(content)
    return str(path)
