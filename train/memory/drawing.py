"""Memory that drawing and encoding pictures take beyond what is held."""

from collections.abc import Iterator

import torch

from model.decoder import Decoder
from model.image_tokenizer import ImageTokenizer, pictures_at_once
from model.params import SamplingParams
from serve.engine.job import Job, JobState
from serve.engine.prefixes import PREFILL_TOKENS, PrefixReader
from serve.engine.side_stream import SideStream
from train.memory.ledger import Ledger
from train.memory.plan import Part
from train.memory.weightless import WeightlessJanus


def drawing_parts(
    janus: WeightlessJanus, device: torch.device, params: SamplingParams, *, prompts: int, at_once: int
) -> Iterator[Part]:
    """Memory for reading the prompts of a step, for what is kept of them, and for decoding pictures.

    Args:
        janus: the model.
        device: what the engine runs on, which need not be there.
        params: of the pictures.
        prompts: of a step.
        at_once: of them, that the engine draws at the same time.
    """
    with janus.mode:
        decoder = Decoder(janus, native=False)
        reader = PrefixReader(decoder, janus.ids, SideStream())
        # of different lengths, so that each has an unconditional row of its own
        lengths = [max(2, janus.prompt_tokens - number) for number in range(prompts)]
        states = [JobState(Job([janus.ids.bos] * length, None, (0,), params)) for length in lengths]
        doing = "reading prompts"
        with Ledger(lambda _: doing) as ledger:
            for start in range(0, prompts, at_once):
                waiting = states[start : start + at_once]
                while waiting:
                    reader.begin(waiting, waiting)
                    while waiting and reader.ready(waiting[0], wait=True):
                        waiting.pop(0).prefixes = None
            kept = ledger.held["reading prompts"]
            doing, count = "decoding pictures", pictures_at_once(janus.image_size, device)
            with torch.no_grad():
                janus.network.model.vqmodel.decode(torch.zeros(count, janus.image_tokens, dtype=torch.int64))
    how = f"up to {prompts} × {janus.prompt_tokens} tokens, until the weights change"
    yield Part("held", "unconditional prefixes", kept, how)
    how = f"{at_once} × {janus.prompt_tokens} tokens with and without prompt, read up to {PREFILL_TOKENS} at a time"
    yield Part("drawing", "prompts", ledger.peak["reading prompts"] - kept, how)
    yield Part("drawing", "pictures", ledger.peak["decoding pictures"], f"{count} are decoded at once")


def encoding_part(janus: WeightlessJanus) -> Part:
    """Memory for encoding one picture of the data."""
    with janus.mode, Ledger(lambda _: "pictures") as ledger:
        ImageTokenizer(janus, native=False).encode(torch.zeros(1, 3, janus.image_size, janus.image_size))
    return Part("drawing", "pictures", ledger.peak["pictures"], "1 is encoded at once")
