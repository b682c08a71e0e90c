"""Sampling settings of a checkpoint: our own file, and transformers' generation_config.json."""

import json
from pathlib import Path

from transformers import GenerationConfig, JanusConfig

from model.checkpoints.config import read_json
from model.errors import CheckpointError
from model.params import SamplingParams
from model.prompt import SpecialIds

_FILE = "focusdiff.json"


def read_sampling(folder: Path) -> SamplingParams:
    """The settings a checkpoint is sampled with by default; FocusDiff's published ones where it has none.

    Raises:
        CheckpointError: the file is damaged or a value is out of range.
    """
    path = folder / _FILE
    if not path.exists():
        return SamplingParams()
    try:
        return SamplingParams(**read_json(path)["sampling"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: sampling settings do not fit ({error})") from None


def write_sampling(folder: Path, sampling: SamplingParams) -> None:
    """Write the settings that `read_sampling` reads."""
    (folder / _FILE).write_text(json.dumps({"sampling": sampling.as_dict()}, indent=2) + "\n")


def generation_config(config: JanusConfig, ids: SpecialIds, sampling: SamplingParams) -> GenerationConfig:
    """The settings with which transformers' own `generate` draws pictures as we do."""
    filters = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return GenerationConfig(
        bos_token_id=ids.bos,
        pad_token_id=ids.pad,
        eos_token_id=config.text_config.eos_token_id,
        guidance_scale=sampling.guidance_scale,
        do_sample=sampling.temperature > 0,
        # transformers refuses to save filters that greedy decoding would not use
        **(filters if sampling.temperature > 0 else {}),
        generation_kwargs={"boi_token_id": ids.begin_of_image},
    )
