"""Filter, caption and verify one edit."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from train.data.construction.vision_model import UnusableAnswer, VisionModel

Outcome = Literal["kept", "filtered", "not verified", "unusable answer", "unreadable picture"]

_FILTER = (
    'The second picture was made from the first by this edit: "{instruction}". Look at both. Give JSON with three '
    'booleans: {{"follows": the edit was done as told, "unchanged": everything else stayed as it was, '
    '"natural": the second picture has no visible faults}}.'
)
_CAPTION = (
    'The second picture was made from the first by this edit: "{instruction}". Write one caption of each picture. Both '
    "must have the same structure, and differ only in the few words that name what was edited. Name only what can be "
    'seen. Give JSON: {{"before": caption of the first picture, "after": caption of the second}}.'
)
_STRUCTURE = 'Do these two sentences have the same structure, and differ in a few words only? 1. "{0}" 2. "{1}"'
_MATCHES = 'Does this picture match the description "{0}" in every detail?'


class Verdict(BaseModel):
    """Answer to the filter's question."""

    model_config = ConfigDict(strict=True)

    follows: bool
    unchanged: bool
    natural: bool


class Captions(BaseModel):
    """Captions of both pictures."""

    model_config = ConfigDict(strict=True)

    before: str = Field(min_length=1)
    after: str = Field(min_length=1)


@dataclass(frozen=True)
class Result:
    """Outcome of one edit.

    outcome: "kept", or why it was discarded.
    captions: of the last attempt; None if it did not come to that.
    attempts: at captions.
    """

    outcome: Outcome
    captions: Captions | None = None
    attempts: int = 0


def construct(
    before: Image.Image, after: Image.Image, instruction: str, *, writer: VisionModel, verifier: VisionModel
) -> Result:
    """Filter an edit, caption it, and verify the captions; they are written again once, then the edit is discarded.

    Args:
        before, after: the pictures.
        instruction: of the edit.
        writer: filters and captions.
        verifier: another model, so that the writer does not judge itself.

    Raises:
        NoAnswer: an endpoint failed; nothing is known about the edit.
    """
    try:
        verdict = writer.fill(Verdict, [before, after], _FILTER.format(instruction=instruction))
    except UnusableAnswer:
        return Result("unusable answer")
    if not (verdict.follows and verdict.unchanged and verdict.natural):
        return Result("filtered")
    captions, unusable = None, False
    for attempt in (1, 2):
        again = f" An earlier attempt was wrong: {captions.model_dump_json()}" if captions else ""
        try:
            captions = writer.fill(Captions, [before, after], _CAPTION.format(instruction=instruction) + again)
            if _holds(captions, before, after, verifier):
                return Result("kept", captions, attempt)
            unusable = False
        except UnusableAnswer:
            unusable = True
    return Result("unusable answer" if unusable else "not verified", captions, 2)


def _holds(captions: Captions, before: Image.Image, after: Image.Image, verifier: VisionModel) -> bool:
    """Whether captions have one structure, and each matches its own picture and not the other."""
    if captions.before.strip() == captions.after.strip():
        return False
    if not verifier.yes([], _STRUCTURE.format(captions.before, captions.after)):
        return False
    own = ((captions.before, before), (captions.after, after))
    other = ((captions.before, after), (captions.after, before))
    return all(verifier.yes([picture], _MATCHES.format(text)) for text, picture in own) and not any(
        verifier.yes([picture], _MATCHES.format(text)) for text, picture in other
    )
