"""A judge that asks a vision-language model."""

import logging
from collections.abc import Sequence

from PIL import Image

from pairs.judges.judge import Judgement
from pairs.judges.vlm.questions import LONG, Questions, is_long
from pairs.judges.vlm.vlm import Vlm

logger = logging.getLogger("focusdiff")

PAIRCOMP_QUESTION = 'Does this image match the description "{prompt}", please directly respond with yes or no'
OWN_QUESTION = "{question} Please directly respond with yes or no."


class VlmJudge:
    """Judge that asks PairComp's question (paper, section 3.2), or a decomposed prompt's own questions.

    The score is the probability of yes, or its mean over the prompt's own questions, which are then the factors. If one
    of them has no usable answer, the judgement has failed.

    Args:
        vlm: answers the questions.
        questions: of long prompts, which cannot be judged without; None asks PairComp's question about every prompt.
    """

    def __init__(self, vlm: Vlm, questions: Questions | None = None) -> None:
        self._vlm, self._questions = vlm, questions

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """One judgement per picture and prompt; all questions are given to the model together."""
        asked = [self._texts(prompt) for prompt in prompts]
        pictures = [image for image, texts in zip(images, asked, strict=True) for _ in texts]
        answers = iter(self._vlm.yes(pictures, [text for texts in asked for text in texts]))
        return [
            _judgement(self._own(prompt), [next(answers) for _ in texts])
            for prompt, texts in zip(prompts, asked, strict=True)
        ]

    def _own(self, prompt: str) -> tuple[str, ...]:
        return () if self._questions is None else self._questions.of(prompt)

    def _texts(self, prompt: str) -> tuple[str, ...]:
        """Questions for a prompt, as the model gets them; none for a long prompt that the file lacks."""
        if own := self._own(prompt):
            return tuple(OWN_QUESTION.format(question=question) for question in own)
        if self._questions is not None and is_long(prompt):
            logger.warning(
                "a prompt of %d words has no questions, and is not judged: only those of at most %d need none",
                len(prompt.split()),
                LONG,
            )
            return ()
        return (PAIRCOMP_QUESTION.format(prompt=prompt),)


def _judgement(own: Sequence[str], answers: Sequence[float | None]) -> Judgement | None:
    known = [answer for answer in answers if answer is not None]
    if not known or len(known) < len(answers):
        return None
    return Judgement(sum(known) / len(known), dict(zip(own, known, strict=True)) if own else {})
