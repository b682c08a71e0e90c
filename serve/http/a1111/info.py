"""The text that the web UI returns about pictures, and that front ends read settings from."""

import json
import time
from collections.abc import Sequence

from serve.backends.generation import Generation
from serve.http.a1111.schemas import Txt2Img
from serve.http.sizes import Size

SAMPLER = "Autoregressive"  # these models draw code by code and have no sampler of a diffusion model


def info(request: Txt2Img, generation: Generation, size: Size, indices: Sequence[int]) -> str:
    """JSON as text about pictures of a request.

    Args:
        request: of them.
        generation: that has drawn them.
        size: in the answer.
        indices: of the answered pictures; fewer than requested after an interruption.
    """
    seeds = [generation.job.seeds[index] for index in indices]
    return json.dumps(
        {
            "prompt": request.prompt,
            "all_prompts": [request.prompt] * len(seeds),
            "negative_prompt": request.negative_prompt,
            "all_negative_prompts": [request.negative_prompt] * len(seeds),
            "seed": generation.job.seeds[0],
            "all_seeds": seeds,
            "subseed": -1,
            "all_subseeds": [-1] * len(seeds),
            "subseed_strength": 0,
            "width": size.width,
            "height": size.height,
            "sampler_name": SAMPLER,
            "cfg_scale": generation.job.params.guidance_scale,
            "steps": generation.info.image_tokens,
            "batch_size": request.batch_size,
            "restore_faces": False,
            "sd_model_name": generation.info.name,
            "sd_model_hash": None,
            "extra_generation_params": {},
            "index_of_first_image": 0,
            "infotexts": _texts(request, generation, seeds, size),
            "styles": [],
            "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
            "clip_skip": 1,
            "is_using_inpainting_conditioning": False,
        },
        ensure_ascii=False,
    )


def _texts(request: Txt2Img, generation: Generation, seeds: Sequence[int], size: Size) -> list[str]:
    """One text for each picture, in the web UI's format."""
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return [
        f"{request.prompt}{negative}\nSteps: {generation.info.image_tokens}, Sampler: {SAMPLER}, "
        f"CFG scale: {generation.job.params.guidance_scale:g}, Seed: {seed}, Size: {size}, "
        f"Model: {generation.info.name}"
        for seed in seeds
    ]
