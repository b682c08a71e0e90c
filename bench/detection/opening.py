"""A scorer from two checkpoints."""

from bench.detection.colours import load_colours
from bench.detection.detector import load_detector
from bench.detection.scorer import CLIP, DETECTOR, Scorer
from bench.detection.verdict import OFFICIAL, Thresholds


def open_scorer(
    detector: str = DETECTOR,
    clip: str = CLIP,
    *,
    device: str = "auto",
    thresholds: Thresholds = OFFICIAL,
    batch: int = 4,
) -> Scorer:
    """Load a scorer's models.

    How far verdicts agree with those of mmdetection's weights is not measured.

    Args:
        detector: folder or hub id of a Mask2Former for COCO's instances.
        clip: folder or hub id of a CLIP.
        device: "auto" takes an accelerator where there is one.
        thresholds: of objects and positions.
        batch: pictures in one forward pass.

    Raises:
        GenEvalError: a checkpoint is of another kind, or a file is missing or damaged.
        CheckpointError: this machine has no such device.
    """
    least = min(thresholds.confidence, thresholds.counting)
    detect = load_detector(detector, device=device, batch=batch, least=least)
    colours = load_colours(clip, device=device)
    return Scorer(detect, colours, {**detect.identity, **colours.identity}, thresholds, batch)
