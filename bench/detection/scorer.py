"""GenEval's scorer: a detector, a classifier of colours, and thresholds. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from PIL import Image

from bench.detection.metadata import Metadata
from bench.detection.objects import DetectedObject
from bench.detection.verdict import OFFICIAL, Kept, Thresholds, Verdict, judge, keep

# the official scorer has the same CLIP, and a detector of the same architecture with weights trained by mmdetection
DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"


class Judged(NamedTuple):
    """Verdict on a picture, and the objects that counted."""

    verdict: Verdict
    kept: Kept


@dataclass(frozen=True)
class Scorer:
    """Judges pictures; `bench.detection.opening.open_scorer` makes one from checkpoints.

    Args:
        detect: objects of each picture.
        colours: of objects of one name in a picture.
        models: names and digests of the models behind `detect` and `colours`.
        thresholds: of objects and positions.
        batch: pictures that are detected together.
    """

    detect: Callable[[Sequence[Image.Image]], Sequence[Sequence[DetectedObject]]]
    colours: Callable[[Image.Image, str, Sequence[DetectedObject]], Sequence[str]]
    models: Mapping[str, Any]
    thresholds: Thresholds = OFFICIAL
    batch: int = 4

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides verdicts; written beside each of them."""
        return {**self.models, **asdict(self.thresholds)}

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[Metadata]) -> list[Judged]:
        """Judge each picture (RGB) against its prompt."""
        return [
            self._judge(picture, metadata, objects)
            for picture, metadata, objects in zip(pictures, prompts, self.detect(pictures), strict=True)
        ]

    def _judge(self, picture: Image.Image, metadata: Metadata, objects: Sequence[DetectedObject]) -> Judged:
        kept = keep(objects, metadata.tag, self.thresholds)

        def colours_of(name: str, found: Sequence[DetectedObject]) -> Sequence[str]:
            return self.colours(picture, name, found)

        return Judged(judge(metadata, kept, colours_of, self.thresholds), kept)
