"""What the image tokenizer loses: scenes through its codes and back, judged."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.pairshapes import Case
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from pairs.exact_judge import ExactJudge
from pairs.render import render


def reconstruct(janus: Janus, pictures: NDArray[np.uint8], *, batch: int = 64) -> list[Image.Image]:
    """Pictures [N, H, W, 3] uint8 through the VQ tokenizer."""
    images, image_tokenizer = [], ImageTokenizer(janus)
    for part in torch.split(torch.from_numpy(pictures), batch):
        codes = image_tokenizer.encode(part.permute(0, 3, 1, 2).float() / 127.5 - 1)
        images += [Image.fromarray(image) for image in image_tokenizer.images(codes).numpy()]
    return images


def reconstruction_scores(janus: Janus, cases: Sequence[Case]) -> list[float | None]:
    """Judged reconstructions of one rendered picture of each case."""
    pictures = np.stack([render(case.scene, 1_000_000 + case.index, janus.image_size) for case in cases])
    judgements = ExactJudge()(reconstruct(janus, pictures), [case.caption for case in cases])
    return [None if judgement is None else judgement.score for judgement in judgements]
