"""The board of pictures: state of each picture, and the HTML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from pairs.scores import arithmetic_mean, geometric_mean


def board_view(elem_id: str) -> gr.HTML:
    """Component that shows a board; its value is the list of HTML pieces, of which only changed ones are sent."""
    return gr.HTML(html_template="${(value || []).join('')}", elem_id=elem_id)


@dataclass
class Cell:
    """State of one picture: base64 content, rows of codes drawn, and base64 overlay of the difference."""

    picture: str | None = None
    format: str = "png"
    rows: int = 0
    done: bool = False
    overlay: str | None = None


@dataclass
class Board:
    """The pictures of two prompts by model and seed, filled by the events of a streamed pair.

    `waiting` maps model and prompt of a job that has not started to pictures ahead and estimated seconds.
    """

    models: list[str]
    seeds: list[int]
    prompts: tuple[str, str]
    rows: int  # of codes per picture
    cells: dict[tuple[str, int, int], Cell] = field(default_factory=dict)
    shares: dict[tuple[str, int], float] = field(default_factory=dict)
    judged: dict[tuple[str, int, int], list[float | None]] = field(default_factory=dict)
    waiting: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def begin(cls, event: Mapping[str, Any], rows: int) -> "Board":
        """Create an empty board from the first event of the stream."""
        board = cls(event["models"], event["seeds"], tuple(event["prompts"]), rows)
        for model in board.models:
            for prompt in (0, 1):
                for image in range(len(board.seeds)):
                    board.cells[model, prompt, image] = Cell()
        return board

    def update(self, event: Mapping[str, Any]) -> None:
        """Update the board from an event of the stream."""
        kind = event["type"].removeprefix("image_pair.")
        if kind == "queued":
            self.waiting[event["model"], event["prompt_index"]] = event["position"], event["wait_seconds"]
        elif kind in ("partial_image", "image"):
            self.waiting.pop((event["model"], event["prompt_index"]), None)
            cell = self.cells[event["model"], event["prompt_index"], event["image_index"]]
            cell.picture, cell.format = event["b64_json"], event["output_format"]
            cell.done = kind == "image"
            cell.rows = self.rows if cell.done else event["rows"]
            if difference := event.get("difference"):
                self.shares[event["model"], event["image_index"]] = difference["share"]
                for prompt in (0, 1):
                    self.cells[event["model"], prompt, event["image_index"]].overlay = difference["overlay_b64_json"]

    def judge(self, model: str, yes: Sequence[Sequence[Sequence[float | None]]]) -> None:
        """Store a model's probabilities of yes, indexed [picture's prompt][image][judged prompt]."""
        for prompt, row in enumerate(yes):
            for image, values in enumerate(row):
                self.judged[model, prompt, image] = list(values)

    @property
    def progress(self) -> float:
        """Drawn share of all rows, 0 to 1."""
        cells = self.cells.values()
        return sum(cell.rows for cell in cells) / max(1, self.rows * len(self.cells))

    def finished(self, model: str) -> list[list[str]]:
        """A model's pictures as base64, indexed [prompt][image]."""
        return [
            [cell.picture for image in range(len(self.seeds)) if (cell := self.cells[model, prompt, image]).picture]
            for prompt in (0, 1)
        ]

    def html(self, *, names: Mapping[str, str] | None = None, facts: bool = True) -> list[str]:
        """HTML pieces of the board. Their number is fixed, so an update changes single pictures or facts.

        Args:
            names: display names of the models.
            facts: whether to show seeds, differences and judgements.
        """
        pieces = []
        for model in self.models:
            name = escape((names or {}).get(model, model))
            pieces.append(f'<section class="model" aria-label="{name}"><h3>{name}</h3>')
            for image in range(len(self.seeds)):
                pieces.append('<div class="pair">')
                pieces += [self._picture(model, name, prompt, image) for prompt in (0, 1)]
                said = "".join(self._facts(model, image)) if facts else ""
                pieces.append(f'<div class="facts">{said}</div></div>')
            pieces.append("</section>")
        return pieces

    def _picture(self, model: str, name: str, prompt: int, image: int) -> str:
        cell = self.cells[model, prompt, image]
        about = f"{name}, {escape(self.prompts[prompt])}, seed {self.seeds[image]}"
        if cell.picture is None:
            return f'<figure class="picture waiting" role="img" aria-label="{about}: not begun"></figure>'
        shown = f'<img src="data:image/{cell.format};base64,{cell.picture}" alt="{about}">'
        if cell.overlay:
            shown += f'<img class="overlay" src="data:image/png;base64,{cell.overlay}" alt="">'
        state = "done" if cell.done else f"row {cell.rows} of {self.rows}"
        return f'<figure class="picture" data-state="{state}">{shown}</figure>'

    def _facts(self, model: str, image: int) -> Iterator[str]:
        yield f"<p>seed {self.seeds[image]}</p>"
        if (share := self.shares.get((model, image))) is not None:
            yield f"<p>{share:.0%} of the codes differ</p>"
        yes = [self.judged.get((model, prompt, image)) for prompt in (0, 1)]
        if yes[0] and yes[1]:
            yield _table(yes[0], yes[1])


def _table(first: Sequence[float | None], second: Sequence[float | None]) -> str:
    """Probabilities of yes, one row per picture and one column per prompt, and the means over own prompts."""
    rows = "".join(
        f"<tr><th>{name} picture</th>"
        + "".join(
            f'<td class="{"own" if prompt == place else ""}">{_number(p)}</td>' for prompt, p in enumerate(values)
        )
        + "</tr>"
        for place, (name, values) in enumerate((("left", first), ("right", second)))
    )
    own = [first[0], second[1]]
    known = [value for value in own if value is not None]
    means = ""
    if len(known) == 2:
        means = f"<p>s<sub>a</sub> {arithmetic_mean(known):.2f}, s<sub>g</sub> {geometric_mean(known):.2f}</p>"
    head = "<tr><th>yes to</th><th>left</th><th>right</th></tr>"
    return f'<table class="judged">{head}{rows}</table>{means}'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
