"""Objects from the logits of a Mask2Former, as mmdetection computes them.

transformers' own `post_process_instance_segmentation` differs: it takes masks and their quality at 384 × 384 and
enlarges them without interpolation, lets later instances overwrite earlier ones, makes no boxes, and rounds scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.detection.objects import Box, DetectedObject

_MOST = 100  # candidates of a picture, in the official detector's configuration


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    names: Sequence[str | None],
    padded: tuple[int, int],
    scaled: tuple[int, int],
    size: tuple[int, int],
    least: float = 0.0,
) -> list[DetectedObject]:
    """Objects of one picture.

    Candidates are the 100 most probable pairs of a query and a class, so a query may be several objects. A score is
    the class's probability times the mean probability of the mask's pixels, taken at the picture's own size.

    Args:
        class_logits: (queries, classes + 1); the last class is "no object".
        mask_logits: (queries, rows, columns), a quarter of `padded`.
        names: of the classes; None for a class that is left out.
        padded: height and width of the network's input.
        scaled: the part of `padded` that shows the picture, at its top left.
        size: height and width of the picture.
        least: score that objects must exceed. Masks are computed only for candidates that can.

    Returns:
        Objects whose mask has a pixel, most probable class first.
    """
    probabilities = class_logits.float().softmax(dim=-1)[:, :-1]
    classes = probabilities.shape[1]
    assert classes == len(names), (classes, len(names))
    scores, places = probabilities.flatten().topk(min(_MOST, probabilities.numel()))
    named = torch.tensor([name is not None for name in names], device=places.device)
    possible = named[places % classes] & (scores > least)  # a mask can only lower the score
    scores, places = scores[possible], places[possible]
    masks = _resize(mask_logits[places // classes].float(), padded)
    masks = _resize(masks[:, : scaled[0], : scaled[1]], size)
    inside = masks > 0
    quality = (masks.sigmoid() * inside).sum(dim=(1, 2)) / (inside.sum(dim=(1, 2)) + 1e-6)
    scores = scores * quality
    objects: list[DetectedObject] = []
    for score, label, mask in zip(scores.tolist(), (places % classes).tolist(), inside.cpu().numpy(), strict=True):
        name = names[label]
        assert name is not None
        if score > least and mask.any():
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            box = Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            objects.append(DetectedObject(name, box, score, mask))
    return objects


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
