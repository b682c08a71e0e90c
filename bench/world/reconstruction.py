"""Loss of the image tokenizer: scores of scenes that were encoded to codes and decoded."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.world.pairshapes import UnseenPrompt
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from pairs.judges.judge import Judge
from pairs.render import render


def reconstruct(janus: Janus, pictures: NDArray[np.uint8], *, batch: int = 64) -> list[Image.Image]:
    """Encode and decode pictures [N, H, W, 3] uint8 with the image tokenizer."""
    images, image_tokenizer = [], ImageTokenizer(janus)
    for part in torch.split(torch.from_numpy(pictures), batch):
        codes = image_tokenizer.encode(part.permute(0, 3, 1, 2).float() / 127.5 - 1)
        images += [Image.fromarray(image) for image in image_tokenizer.images(codes).cpu().numpy()]
    return images


def reconstruction_scores(janus: Janus, prompts: Sequence[UnseenPrompt], judge: Judge) -> list[float | None]:
    """Score the reconstruction of one rendered picture per prompt; None where the judgement failed."""
    pictures = np.stack([render(prompt.scene, 1_000_000 + prompt.index, janus.image_size) for prompt in prompts])
    judgements = judge(reconstruct(janus, pictures), [prompt.caption for prompt in prompts])
    return [None if judgement is None else judgement.score for judgement in judgements]
