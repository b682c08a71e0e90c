"""The demo page: two prompts, one or two models, pictures that fill in row by row, and their differences."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from pairs.paircomp import Case
from pairs.words import contrast, marked
from ui.api import Api, ApiFailure, Model
from ui.blind import build_blind
from ui.board import Board, board_view
from ui.download import save_grid, save_json
from ui.examples import FIRST, examples
from ui.first_pair import FirstPair, baseline_and_model
from ui.paircomp import build_paircomp
from ui.settings import MAX_IMAGES, Comparison, SettingError
from ui.training import build_training
from ui.votes import Votes

STYLE = Path(__file__).with_name("style.css")
SWEEP = (1.0, 2.0, 3.0, 5.0, 8.0)  # guidance scales
_PREVIEWS = 7
_SECONDS_BETWEEN_UPDATES = 0.08  # a browser cannot draw faster
_LARGE = 128  # pixels along a side; larger pictures are sent as WebP
_RANDOM_SEEDS = 1_000_000  # upper bound, so that seeds are short enough to read and type
_NONE = "none"
_SAMPLING = ("guidance_scale", "temperature", "top_k", "top_p")


def theme() -> gr.themes.Base:
    """Theme with system fonts, so that nothing is fetched from other hosts."""
    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build_page(url: str, votes: Votes, cases: Sequence[Case] = ()) -> gr.Blocks:
    """Build the page.

    Args:
        url: URL of the server whose API the page uses.
        votes: store of the blind votes.
        cases: PairComp's cases to choose from.
    """
    page: gr.Blocks
    with gr.Blocks(title="FocusDiff", analytics_enabled=False) as page:
        gr.Markdown(
            "# Does the model notice?\nFocusDiff trains text-to-image models on pairs of prompts that differ by a word, "
            "so that exactly that word changes in the picture. Here both prompts are drawn with the same seeds."
        )
        with gr.Row(elem_id="prompts"):
            first = gr.Textbox(FIRST.first, label="Left prompt", lines=1, max_lines=3, elem_id="left")
            second = gr.Textbox(FIRST.second, label="Right prompt", lines=1, max_lines=3, elem_id="right")
        difference = gr.HTML(_difference(FIRST.first, FIRST.second), elem_id="difference")
        with gr.Row(elem_id="run"):
            above = gr.Dropdown([_NONE], value=_NONE, label="Model above", elem_id="above")
            below = gr.Dropdown([], label="Model below", elem_id="below")
            draw = gr.Button("Draw", variant="primary", elem_id="draw")
            stop = gr.Button("Stop", variant="stop", elem_id="stop")
            sweep = gr.Button("Sweep guidance", elem_id="sweep")
        status = gr.HTML(elem_id="status")
        overlay = gr.Checkbox(label="Show which codes differ", elem_id="overlay")
        board = board_view("board")
        training = gr.Column()
        with gr.Accordion("Settings (empty: the model's own)", open=False, elem_id="settings"):
            with gr.Row():
                count = gr.Slider(1, MAX_IMAGES, value=2, step=1, label="Pictures of each prompt", elem_id="count")
                seed = gr.Textbox("", label="Seed", placeholder="random", elem_id="seed")
                sampling = [
                    gr.Textbox("", label=label, elem_id=name)
                    for label, name in (
                        ("Guidance (1 to 20)", "guidance"),
                        ("Temperature (0 to 2)", "temperature"),
                        ("Top-k (0: all codes)", "top_k"),
                        ("Top-p (up to 1)", "top_p"),
                    )
                ]
            negative = gr.Textbox("", label="Guide away from", elem_id="negative")
            key = gr.Textbox(label="API key", type="password", elem_id="key")
        with training:
            build_training(url, key)
        if cases:
            build_paircomp(cases, first, second)
        pairs = examples()
        gr.Examples(
            [[pair.first, pair.second] for pair in pairs],
            [first, second],
            label="Pairs to try",
            example_labels=[f"{pair.category}: {contrast(pair.first, pair.second)}" for pair in pairs],
            examples_per_page=len(pairs),
            elem_id="examples",
        )
        with gr.Accordion("This visit", open=False, elem_id="history"):
            history = gr.HTML("Nothing has been drawn yet.", elem_id="links")
            with gr.Row():
                grid_file = gr.DownloadButton("Pictures (PNG)", elem_id="grid")
                json_file = gr.DownloadButton("Settings (JSON)", elem_id="json")
        links = gr.State([])
        link = gr.Textbox(visible="hidden", elem_id="link")
        settings = [count, seed, *sampling, negative]
        chosen = [first, second, above, below, *settings, key]
        build_blind(url, votes, _draw_board, _comparison, chosen)
        shown = [status, board, links, history, grid_file, json_file]
        for box in (first, second):
            box.change(_difference, [first, second], difference, show_progress="hidden", queue=False)
        drawing = _Drawing(url)
        running = gr.on(
            [draw.click, first.submit, second.submit],
            drawing.draw,
            [*chosen, links],
            shown,
            show_progress="hidden",
            concurrency_limit=None,
        )
        sweeping = sweep.click(drawing.sweep, [*chosen, links], shown, show_progress="hidden", concurrency_limit=None)
        example = page.load(drawing.show_example, None, [status, board], show_progress="hidden", concurrency_limit=None)
        gr.on([draw.click, first.submit, second.submit, sweep.click], None, cancels=[example], queue=False)
        stopped = stop.click(None, cancels=[running, sweeping, example], queue=False)
        # after cancelling: a pending update would overwrite the status
        stopped.then(lambda: "<p>Stopped.</p>", None, status, show_progress="hidden", queue=False)
        overlay.change(None, overlay, None, js="on => { document.querySelector('#board').dataset.overlay = on }")
        named = [above, below, *sampling, status]
        page.load(drawing.greet, None, named)
        # set prompts and settings only if the page was opened by a link: the user may already be typing
        page.load(None, None, link, js="() => location.search")
        link.change(_linked, link, [first, second, *settings], show_progress="hidden", queue=False)
        key.submit(drawing.name_models, [key], named)
        for model in (above, below):
            model.change(drawing.show_sampling, [above, below, key], sampling, show_progress="hidden", queue=False)
    return page


class _Drawing:
    """Event handlers of the page, for one server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._example = FirstPair()

    async def show_example(self, request: gr.Request) -> AsyncIterator[list[Any]]:
        """Show the example pair unless the page was opened by a link."""
        yield [gr.skip()] * 2  # without any update, both would be cleared
        if Comparison.from_query(dict(request.query_params)) is not None:
            return
        api = Api(self._url)
        with suppress(ApiFailure):  # no key yet, or not ready: the first drawing reports it
            async for html in self._example.html(await api.models(), lambda comparison: _draw_board(api, comparison)):
                yield [gr.skip(), html]
            yield ["<p>An example. Type your own prompts and press Draw.</p>", gr.skip()]

    async def greet(self, request: gr.Request) -> list[Any]:
        """List the server's models, with those of the page's link selected."""
        linked = Comparison.from_query(dict(request.query_params))
        *lists, status = await self.name_models(None, linked.models if linked else ())
        return [*lists, status or gr.skip()]  # the example may have set the status already

    async def name_models(self, key: str | None, chosen: Sequence[str] = ()) -> list[Any]:
        """Update both lists of models, and the placeholders of the sampling settings.

        Selects the `chosen` models that exist; if none do, a baseline above and a model below.
        """
        try:
            models = await Api(self._url, key or None).models()
        except ApiFailure as failure:
            return [*[gr.skip()] * (2 + len(_SAMPLING)), _error(failure)]
        names = list(models)
        known = [name for name in chosen if name in names] or baseline_and_model(names)
        above, below = known if len(known) == 2 else (_NONE, known[0])
        lists = [gr.update(choices=[_NONE, *names], value=above), gr.update(choices=names, value=below)]
        return [*lists, *_placeholders([models[name] for name in (above, below) if name in models]), ""]

    async def show_sampling(self, above: str, below: str, key: str | None) -> list[Any]:
        """Show the models' own sampling settings, used for empty fields, as placeholders."""
        try:
            models = await Api(self._url, key or None).models()
        except ApiFailure:  # drawing reports it
            models = {}
        return _placeholders([models[name] for name in (above, below) if name in models])

    async def draw(self, *chosen: Any) -> AsyncIterator[list[Any]]:
        """Draw both prompts; yields page updates as pictures arrive."""
        *values, key, links = chosen
        try:
            comparisons = [_comparison(*values)]
        except SettingError as error:
            yield [_error(error), *[gr.skip()] * 5]
            return
        async for update in self._run(comparisons, key, links):
            yield update

    async def sweep(self, *chosen: Any) -> AsyncIterator[list[Any]]:
        """Draw one seed with five guidance scales, one after the other."""
        *values, key, links = chosen
        try:
            scales = [replace(_comparison(*values), guidance_scale=scale, n=1) for scale in SWEEP]
        except SettingError as error:
            yield [_error(error), *[gr.skip()] * 5]
            return
        async for update in self._run(scales, key, links):
            yield update

    async def _run(self, comparisons: list[Comparison], key: str, links: list[str]) -> AsyncIterator[list[Any]]:
        api = Api(self._url, key or None)
        boards: list[Board] = []
        try:
            known = await api.models()
            for number, comparison in enumerate(comparisons):
                async for board in _drawn(api, comparison, known):
                    boards[number:] = [board]
                    yield [_status(boards, len(comparisons)), _boards(boards, comparisons), *[gr.skip()] * 4]
        except ApiFailure as failure:
            yield [_error(failure), *[gr.skip()] * 5]
            return
        links = [*links, *(_link(c, board) for c, board in zip(comparisons, boards, strict=True))]
        files = save_grid(boards), save_json(comparisons, boards)
        yield ["<p>Done.</p>", _boards(boards, comparisons), links, "".join(reversed(links)), *files]


async def _draw_board(api: Api, comparison: Comparison) -> AsyncIterator[Board]:
    known = await api.models()
    async for board in _drawn(api, comparison, known):
        yield board


async def _drawn(api: Api, comparison: Comparison, known: dict[str, Model]) -> AsyncIterator[Board]:
    """Yield the board of one comparison as it fills."""
    models = [known[name] for name in comparison.models if name in known] or list(known.values())[:1]
    rows = min(model.rows for model in models)
    large = max(model.image_size for model in models) > _LARGE
    format = {"output_format": "webp", "output_compression": 90} if large else {}
    board: Board | None = None
    updated = 0.0
    async for event in api.pairs({**comparison.request, **format, "partial_images": min(_PREVIEWS, rows - 1)}):
        if board is None:
            board = Board.begin(event, rows)
        else:
            board.update(event)
        if time.monotonic() - updated > _SECONDS_BETWEEN_UPDATES:
            updated = time.monotonic()
            yield board
    assert board is not None
    yield board
    for model in board.models:
        board.judge(model, await api.judge(board.prompts, board.finished(model)))
    yield board


def _comparison(first: str, second: str, above: str, below: str, n: float, *settings: str) -> Comparison:
    """Comparison from the page's inputs, with a random seed if none is given; raises SettingError."""
    models = tuple(dict.fromkeys(name for name in (above, below) if name and name != _NONE))
    seed, guidance, temperature, top_k, top_p, negative = settings
    one = Comparison.typed(
        first,
        second,
        models,
        n,
        seed=seed,
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        negative=negative,
    )
    return one if one.seed is not None else replace(one, seed=secrets.randbelow(_RANDOM_SEEDS))


def _linked(link: str) -> list[Any]:
    """Updates of the inputs from a link; no change if there is none."""
    linked = Comparison.from_query(dict(parse_qsl(link.removeprefix("?"))))
    if linked is None:
        return [gr.skip()] * (5 + len(_SAMPLING))
    numbers = [linked.seed, *(getattr(linked, name) for name in _SAMPLING)]
    texts = ["" if number is None else f"{number}" for number in numbers]
    return [linked.first, linked.second, linked.n, *texts, linked.negative_prompt or ""]


def _placeholders(models: Sequence[Model]) -> list[Any]:
    """Placeholders with the models' own sampling settings: both values if they differ."""
    texts = (dict.fromkeys(f"{model.sampling[name]:g}" for model in models) for name in _SAMPLING)
    return [gr.update(placeholder=" / ".join(text)) for text in texts]


def _difference(first: str, second: str) -> str:
    a, b = marked(first, second)
    return f'<div class="words"><p>{a}</p><p>{b}</p></div>'


def _status(boards: list[Board], planned: int) -> str:
    """HTML of the queue position, if waiting, and the progress bar."""
    board = boards[-1]
    ahead, seconds = max(board.waiting.values(), default=(0, 0.0))
    said = f"<p>{ahead} pictures are before yours: about {seconds:.0f} s.</p>" if ahead else ""
    done = (len(boards) - 1 + board.progress) / planned
    return f'{said}<progress value="{done:.3f}" aria-label="drawn"></progress>'


def _boards(boards: list[Board], comparisons: list[Comparison]) -> list[str]:
    if len(comparisons) == 1:
        return boards[0].html()
    pieces = ['<div class="sweep">']
    for comparison, board in zip(comparisons, boards, strict=False):
        pieces += [f"<section><h2>guidance {comparison.guidance_scale:g}</h2>", *board.html(), "</section>"]
    return pieces  # the browser closes the open div


def _link(comparison: Comparison, board: Board) -> str:
    """HTML link that reproduces the pictures."""
    fixed = replace(comparison, models=tuple(board.models))
    scale = "" if comparison.guidance_scale is None else f", guidance {comparison.guidance_scale:g}"
    a, b = marked(comparison.first, comparison.second)
    return f'<p><a href="?{fixed.query}">{a} / {b}</a> (seed {board.seeds[0]}{scale})</p>'


def _error(failure: ApiFailure | SettingError) -> str:
    return f'<p class="error" role="alert">{escape(str(failure))}</p>'
