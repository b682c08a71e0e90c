"""Steps of several places: the logits of one code after the other, and the same codes."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.attention import Rows
from model.checkpoints.load import load
from model.decoder import Decoder
from model.janus import Janus
from model.kv_cache import KVCache
from model.params import SamplingParams
from model.quantization import Quantization
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from model.sampling import filtered, guide, sample
from tests.drawing import SETTINGS
from tests.other_geometry import WIDE, with_geometry
from tests.tools import needs_compiler, needs_kernels

CPU = torch.device("cpu")
TOKENS, GRID, VOCABULARY = 12, 4, 23
ways = pytest.mark.parametrize(
    "way", [pytest.param("C", marks=needs_compiler), "PyTorch", pytest.param("kernels", marks=needs_kernels)]
)


@pytest.fixture(scope="module")
def small(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@needs_compiler
@pytest.mark.parametrize(("native", "quantization"), [(True, None), (True, "int8"), (False, None)])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("before", [5, 8, 13])
@pytest.mark.parametrize("geometry", [{}, {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": WIDE}])
def test_codes_fed_together_give_the_logits_of_codes_fed_one_by_one(
    small: Janus,
    native: bool,
    quantization: Quantization | None,
    threads: int,
    before: int,
    geometry: Mapping[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three rows gain 2, 7 and 1 codes. To the last bit in C; what the cache holds behind the codes is NaN.

    C stores keys by 16: codes end before that place, or begin before it and end behind it.
    """
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # asked for by the C function
    janus = with_geometry(small, **geometry) if geometry else small
    decoder = Decoder(janus, native=native, quantization=quantization)
    fed = [[3, 7], [1, 4, 1, 5, 9, 2, 6], [2]]
    prefixes = decoder.prefill([[1, *range(5, before + 4 + 2 * row)] for row in range(3)])

    def begun() -> KVCache:
        cache = decoder.cache(3, 40)
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)
        for row, prefix in enumerate(prefixes):
            cache.begin(row, prefix)
        return cache

    places = [(row, prefixes[row].length + place) for row, codes in enumerate(fed) for place in range(len(codes))]
    codes = torch.tensor([code for row in fed for code in row])
    alone, together = begun(), begun()
    expected = [
        decoder.step(codes[i : i + 1].clone(), Rows.of([row], [position], CPU), alone)[0].clone()
        for i, (row, position) in enumerate(places)
    ]
    rows = Rows.of([row for row, _ in places], [position for _, position in places], CPU)
    logits = decoder.step(codes, rows, together)
    assert logits.isfinite().all()
    tolerance = 0 if native else 1e-4
    torch.testing.assert_close(logits, torch.stack(expected), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(together.keys, alone.keys, rtol=tolerance, atol=tolerance, equal_nan=True)


def logits_after(codes: Sequence[int], row: int, *, surprise: float) -> Tensor:
    """Logits of the next code in a row of the cache: they depend on all codes before, more so with more `surprise`."""
    place, latest = len(codes), codes[-2:]
    usual = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1000 * row + place))
    other = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(hash((row, place, *latest)) % 2**31))
    return 3 * usual + surprise * other


def reference(image: SampledImage, *, surprise: float) -> tuple[list[int], list[float]]:
    """Codes and their log-probabilities, one after the other with `model.sampling`."""
    codes: list[int] = []
    logprobs: list[float] = []
    for place in range(TOKENS):
        first, last = (logits_after(codes, row, surprise=surprise) for row in (image.rows[0], image.rows[-1]))
        guided = guide(first, last, image.params.guidance_scale)
        where = {"seeds": torch.tensor([image.seed]), "positions": torch.tensor([place])}
        codes.append(int(sample(guided[None], image.params, **where)))
        kept = guided if image.params.temperature == 0 else filtered(guided, image.params).log_softmax(-1)
        logprobs.append(0.0 if image.params.temperature == 0 else float(kept[codes[-1]]))
    return codes, logprobs


class Drawing:
    """Images drawn by a sampler with windows; the logits come from `logits_after` of what the windows were fed."""

    def __init__(self, images: Sequence[SampledImage], *, way: str, surprise: float) -> None:
        self.images, self.surprise = images, surprise
        self.sampled = [0] * len(images)
        self.sampler = Sampler(
            rows=10,
            tokens=TOKENS,
            vocabulary=VOCABULARY,
            grid=GRID,
            device=CPU,
            native=way == "C",
            kernels=way == "kernels",
            logprobs=True,
        )
        self.sampler.begin([image.rows[0] for image in images])
        self.batch = self.sampler.batch(images)
        self.spoil: Callable[[int, int, Tensor], None] = lambda image, place, logits: None

    def step(self, widths: Sequence[int]) -> list[int]:
        """One step; an image without codes takes part with the logits of its prompt."""
        if all(self.sampled):
            self.batch.widen(widths)
        rows: list[Tensor] = []
        fed = iter(self.batch.codes.tolist())
        for number, image in enumerate(self.images):
            before = self.sampler.codes([image.rows[0]])[0].tolist()[: self.sampled[number]]
            window = min(widths[number], TOKENS - self.sampled[number]) if all(self.sampled) else 1
            for row in image.rows:
                codes = [next(fed) for _ in range(window)]
                assert not before or codes[0] == before[-1]
                for place in range(window):
                    logits = logits_after([*before, *codes[1 : place + 1]], row, surprise=self.surprise)
                    self.spoil(number, self.sampled[number] + place, logits)
                    rows.append(logits)
        gained = list(self.batch.sample(torch.stack(rows)))
        self.sampled = [codes + more for codes, more in zip(self.sampled, gained, strict=True)]
        return gained


def images_of(params: Sequence[SamplingParams]) -> list[SampledImage]:
    return [
        SampledImage((2 * number, 2 * number + 1)[: 1 + one.guided], (4, 6)[: 1 + one.guided], one, seed=70 + number)
        for number, one in enumerate(params)
    ]


def check_window_codes(way: str, params: SamplingParams, surprise: float, seed: int, twin: bool) -> None:
    """Draw an image with random windows; guesses given at the start may be right or wrong."""
    rng = random.Random(seed)
    (image,) = images_of([params])
    codes, logprobs = reference(image, surprise=surprise)
    drawing = Drawing([image], way=way, surprise=surprise)
    if twin:
        drawing.sampler.guess(0, [code if rng.random() < 0.8 else rng.randrange(VOCABULARY) for code in codes])
    steps = 0
    while drawing.sampled[0] < TOKENS:
        gained = drawing.step([rng.randint(1, 7)])
        assert gained[0] >= 1
        steps += 1
    assert drawing.sampler.codes([0])[0].tolist() == codes
    assert drawing.sampler.logprobs([0])[0].tolist() == pytest.approx(logprobs, abs=2e-5)
    assert drawing.sampler.finite([0]).tolist() == [True]


@pytest.mark.parametrize("way", [pytest.param("C", marks=needs_compiler), "PyTorch"])
@settings(max_examples=60, deadline=None)
@given(
    params=st.sampled_from(SETTINGS),
    surprise=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    seed=st.integers(0, 1000),
    twin=st.booleans(),
)
def test_windows_of_any_width_draw_the_codes_of_the_reference(
    way: str, params: SamplingParams, surprise: float, seed: int, twin: bool
) -> None:
    """Also log-probabilities."""
    check_window_codes(way, params, surprise, seed, twin)


@needs_kernels
@pytest.mark.parametrize(("setting", "surprise", "twin"), [(2, 1.0, False), (3, 0.3, True), (0, 0.3, False)])
def test_windows_of_kernels_draw_the_codes_of_the_reference(setting: int, surprise: float, twin: bool) -> None:
    """Fewer examples: the interpreter is slow."""
    check_window_codes("kernels", SETTINGS[setting], surprise, setting, twin)


@ways
def test_guesses_that_are_right_are_all_confirmed_and_none_behind_a_wrong_one(way: str) -> None:
    """All twelve codes guessed, the sixth one wrongly: steps of 5 places add 1, 5, then 1 of 5, then 5 again."""
    (image,) = images_of([SETTINGS[2]])
    codes, _ = reference(image, surprise=0)
    drawing = Drawing([image], way=way, surprise=0)
    drawing.sampler.guess(0, [*codes[:6], (codes[6] + 1) % VOCABULARY, *codes[7:]])
    assert [drawing.step([5])[0] for _ in range(4)] == [1, 5, 1, 5]
    assert drawing.sampler.codes([0])[0].tolist() == codes


@ways
def test_the_code_above_is_the_first_guess(way: str) -> None:
    (image,) = images_of([SETTINGS[1]])
    drawing = Drawing([image], way=way, surprise=3)
    for _ in range(5):
        drawing.step([1])
    drawing.batch.widen([5])
    codes = drawing.sampler.codes([0])[0].tolist()
    assert drawing.batch.codes[:5].tolist() == [codes[4], *codes[1:5]]
    assert drawing.batch.rows.count == 5


@ways
def test_what_was_drawn_behind_a_wrong_guess_is_the_next_guess(way: str) -> None:
    (image,) = images_of([SETTINGS[1]])
    drawing = Drawing([image], way=way, surprise=0)
    drawing.sampler.guess(0, [VOCABULARY - 1] * 3)  # the others are unknown
    drawing.step([1])
    assert drawing.step([6]) == [1]
    drawing.batch.widen([5])
    codes, _ = reference(image, surprise=0)  # which the places behind do not change
    assert drawing.batch.codes[:5].tolist() == codes[1:6]


@ways
@pytest.mark.parametrize(("spoilt", "finite"), [(2, False), (5, True)])
def test_logits_behind_a_wrong_guess_may_be_anything(way: str, spoilt: int, finite: bool) -> None:
    """The third guess is wrong: NaN for the place before it is the image's, one behind it was never asked for."""
    (image,) = images_of([SETTINGS[2]])
    codes, _ = reference(image, surprise=0)
    drawing = Drawing([image], way=way, surprise=0)
    drawing.sampler.guess(0, [*codes[:3], (codes[3] + 1) % VOCABULARY, *codes[4:]])
    drawing.step([1])

    def spoil(number: int, place: int, logits: Tensor) -> None:
        if place == spoilt:
            logits[7] = torch.nan

    drawing.spoil = spoil
    drawing.step([6])
    assert drawing.sampler.finite([0]).tolist() == [finite]


@ways
def test_images_with_windows_of_their_own_do_not_disturb_each_other(way: str) -> None:
    rng = random.Random(0)
    images = images_of([SETTINGS[0], SETTINGS[4], SETTINGS[3], SETTINGS[2]])
    drawing = Drawing(images, way=way, surprise=0.3)
    ended: dict[int, list[int]] = {}
    while len(ended) < len(images):
        drawing.step([rng.randint(1, 6) for _ in drawing.images])
        done = [number for number, codes in enumerate(drawing.sampled) if codes == TOKENS]
        for number in done:
            ended[drawing.images[number].rows[0]] = drawing.sampler.codes([drawing.images[number].rows[0]])[0].tolist()
        if done:
            left = [number for number in range(len(drawing.images)) if number not in done]
            drawing.sampled = [drawing.sampled[number] for number in left]
            drawing.images = [
                SampledImage(one.rows, one.prompt_lengths, one.params, one.seed, codes)
                for one, codes in zip((drawing.images[number] for number in left), drawing.sampled, strict=True)
            ]
            drawing.batch = drawing.sampler.batch(drawing.images, [1] * len(left))
    assert ended == {image.rows[0]: reference(image, surprise=0.3)[0] for image in images}
