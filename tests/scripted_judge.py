"""A judge whose score of a picture is its red level."""

from collections.abc import Sequence

from PIL import Image

from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge


class ScriptedJudge:
    """Remembers what it judged.

    fails: prompts without a judgement.
    """

    def __init__(self, *, constant: float | None = None, inverted: bool = False) -> None:
        self.fails: set[str] = set()
        self.judged: list[str] = []
        self._constant, self._inverted = constant, inverted

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        self.judged += prompts
        return [
            None if prompt in self.fails else Judgement(self._score(image))
            for image, prompt in zip(images, prompts, strict=True)
        ]

    def opened(self, name: str = "red", weights: str = "1") -> OpenedJudge:
        """It with an identity."""
        identity = {"judge": "scripted", "judge model": name, "judge weights": weights, "judge questions": None}
        return OpenedJudge(self, identity)

    def _score(self, image: Image.Image) -> float:
        if self._constant is not None:
            return self._constant
        level = image.getpixel((0, 0))
        assert isinstance(level, tuple)
        return 1 - level[0] / 255 if self._inverted else level[0] / 255
