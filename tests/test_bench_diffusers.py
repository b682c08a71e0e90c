"""The generator that draws with a pipeline of diffusers."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.pictures.errors import GenerationError
from bench.pictures.from_diffusers import DiffusersGenerator
from bench.pictures.picture import Part, Picture
from tests.drawn_parts import PARTS, drawn

BROKEN = "unheard"  # a word whose prompts the pipeline of diffusers cannot draw


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """A random Stable Diffusion pipeline of 32 × 32 pictures, as diffusers saves it."""
    diffusers: Any = importlib.import_module("diffusers")  # has no types for these classes
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    unet = diffusers.UNet2DConditionModel(
        **blocks,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(
        **blocks,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
    )
    words = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "blue", "red", "star", "circle"]
    known = [*words, BROKEN]  # which the text encoder has no embedding for
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=16,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=16,
            unk_token="[UNK]",
            pad_token="[PAD]",
            bos_token="[BOS]",
            eos_token="[EOS]",
        ),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("diffusers") / "random-diffusion"
    pipeline.save_pretrained(folder)
    return folder


def test_a_pipeline_of_diffusers_draws_each_picture_from_its_seed(pipeline_folder: Path) -> None:
    """Whatever is drawn beside it, up to rounding."""

    def generator(batch: int) -> DiffusersGenerator:
        return DiffusersGenerator(
            str(pipeline_folder), device=torch.device("cpu"), dtype=torch.float32, batch=batch, steps=2
        )

    together, alone = generator(4), generator(1)
    assert together.settings == alone.settings
    assert together.settings["pipeline"] == "StableDiffusionPipeline"
    assert together.settings["sampling"]["num_inference_steps"] == 2
    assert together.settings["sampling"]["guidance_scale"] == 7.5
    both = drawn(together), drawn(alone)
    for part in PARTS:
        pair = [np.asarray(one[part].image, dtype=np.int16) for one in both]
        assert np.abs(pair[0] - pair[1]).max() <= 2
    first, second = (np.asarray(both[0][part].image, dtype=np.int16) for part in PARTS[1:3])
    assert np.abs(first - second).max() > 20


@pytest.mark.parametrize(("batch", "others"), [(1, ""), (2, ", first of a batch of 2,")])
def test_a_prompt_that_a_pipeline_cannot_draw_is_named(pipeline_folder: Path, batch: int, others: str) -> None:
    """Pictures before it are drawn."""
    cpu = torch.device("cpu")
    generator = DiffusersGenerator(str(pipeline_folder), device=cpu, dtype=torch.float32, batch=batch, steps=1)
    wanted = [*PARTS[:2], *(Part(Picture(f"{n}.png", f"an {BROKEN} star", (n,)), 0) for n in range(2))]
    found = generator.draw(wanted)
    assert [next(found).part, next(found).part] == wanted[:2]
    with pytest.raises(GenerationError, match=rf"^0\.png{others} cannot be drawn from 'an unheard star': IndexError: "):
        next(found)


def test_a_folder_that_is_no_pipeline_is_named(small_folder: Path) -> None:
    with pytest.raises(GenerationError, match="small is no pipeline of diffusers"):
        DiffusersGenerator(str(small_folder), device=torch.device("cpu"), dtype=torch.float32, batch=1)
