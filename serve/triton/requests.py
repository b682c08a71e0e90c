"""Requests of Triton's clients, checked against the model. Imports no torch."""

import time

from serve.backends.engine_backend import EngineBackend
from serve.backends.triton.wire import Draw
from serve.engine.job import Job


def job_of(draw: Draw, backend: EngineBackend) -> Job:
    """Job of a request.

    Raises:
        ValueError: a field does not fit the model; the message names it.
    """
    params = draw.sampling(backend.info.sampling)
    if params.top_k > backend.info.codebook_size:
        raise ValueError(f"top_k must be at most {backend.info.codebook_size}, the codebook's size")
    negative = None
    if draw.negative_prompt is not None:
        negative = _ids(draw.negative_prompt, backend, "negative_prompt")
    deadline = None if draw.seconds is None else time.monotonic() + draw.seconds
    prompt = _ids(draw.prompt, backend, "prompt")
    return Job(prompt, negative, draw.seeds, params, preview_rows=draw.preview_rows, deadline=deadline)


def _ids(prompt: str | tuple[int, ...], backend: EngineBackend, name: str) -> list[int]:
    if isinstance(prompt, str):
        return backend.encode(prompt, name=name)
    limit, known = backend.loaded.max_prompt_tokens, backend.tokenizer.get_vocab_size()
    if not 2 < len(prompt) <= limit:
        raise ValueError(f"{name} must have 3 to {limit} token ids, not {len(prompt)}")
    if wrong := [one for one in prompt if not 0 <= one < known]:
        raise ValueError(f"{name} has token id {wrong[0]}; there are {known}")
    return list(prompt)
