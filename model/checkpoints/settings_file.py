"""Settings of a checkpoint besides its weights: our focusdiff.json, and transformers' generation_config.json."""

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import GenerationConfig, JanusConfig

from model.checkpoints.config import read_json
from model.errors import CheckpointError
from model.params import SamplingParams
from model.prompt import SpecialIds

_FILE = "focusdiff.json"


def read_sampling(folder: Path) -> SamplingParams:
    """Read a checkpoint's default sampling settings; without focusdiff.json, FocusDiff's published ones.

    Raises:
        CheckpointError: the file is damaged or a value is out of range.
    """
    path = folder / _FILE
    if not path.exists():
        return SamplingParams()
    try:
        return SamplingParams(**read_json(path)["sampling"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: invalid sampling settings ({error})") from None


def read_reward_judge(folder: Path) -> dict[str, str | None] | None:
    """Read the identity of the judge whose scores a checkpoint was trained with; None if there was none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / _FILE
    judge = read_json(path).get("reward judge") if path.exists() else None
    if judge is not None and not isinstance(judge, dict):
        raise CheckpointError(f"{path}: invalid reward judge {judge!r}")
    return judge


def write_settings(folder: Path, sampling: SamplingParams, reward_judge: Mapping[str, str | None] | None) -> None:
    """Write focusdiff.json, which `read_sampling` and `read_reward_judge` read."""
    content = {"sampling": sampling.as_dict()}
    judge = {} if reward_judge is None else {"reward judge": dict(reward_judge)}
    (folder / _FILE).write_text(json.dumps(content | judge, indent=2) + "\n")


def generation_config(config: JanusConfig, ids: SpecialIds, sampling: SamplingParams) -> GenerationConfig:
    """Settings with which transformers' own `generate` samples as this project does."""
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
