"""Decompose long prompts into yes/no questions, which judges ask (`pairs.judges.vlm.questions`)."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pairs.files import write_atomically
from pairs.judges.vlm.questions import Questions, is_long
from train.data.construction.asking import ask_all
from train.data.construction.prices import Prices, total
from train.data.construction.vision_model import UnusableAnswer, Usage, VisionModel
from train.errors import DataError

_DECOMPOSE = (
    'A picture is to be checked against this description: "{prompt}". Write the questions that have to be asked about '
    "the picture. Each can be answered with yes or no by looking at it, is about one fact of the description (an "
    "object, how many there are, a colour, a material, a place, a relation, an action, written text, the style), and is "
    "understood without the description. If the picture fits the description in every detail, the answer to each is "
    'yes. Give JSON: {{"questions": [list of the questions]}}.'
)
_SAVE_SECONDS = 10.0


class _Decomposed(BaseModel):
    model_config = ConfigDict(strict=True)

    questions: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = Field(min_length=1)


@dataclass(frozen=True)
class _Asked:
    """Questions of a prompt, none if the answer was unusable, and what the model was asked for them."""

    questions: tuple[str, ...]
    usage: Usage


class QuestionFile:
    """A file of questions that is being written: {prompt: [question, …]}.

    Args:
        file: made if missing; the prompts that it has are not asked for again, so that lists written by hand stay.

    Raises:
        JudgeError: the file is no such object.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.by_prompt = dict(Questions.read(file).by_prompt) if file.exists() else {}
        self._usages: list[Usage] = []
        self._unusable = 0

    def write(self, prompts: Iterable[str], writer: VisionModel, *, concurrency: int = 8) -> None:
        """Ask for the questions of all long prompts that have none; a kill loses the answers of ten seconds.

        Raises:
            DataError: prompts are left because the endpoint failed; the same call goes on.
        """
        missing = [prompt for prompt in long_prompts(prompts) if prompt not in self.by_prompt]
        saved = time.monotonic()

        def keep(prompt: str, asked: _Asked) -> None:
            nonlocal saved
            self._usages.append(asked.usage)
            self._unusable += not asked.questions
            if asked.questions:
                self.by_prompt[prompt] = asked.questions
            if time.monotonic() > saved + _SAVE_SECONDS:
                self._save()
                saved = time.monotonic()

        try:
            last = ask_all(
                lambda prompt: _decompose(prompt, writer), missing, keep, name="prompts", concurrency=concurrency
            )
        finally:
            self._save()
        left = len(missing) - len(self._usages)
        if left:
            raise DataError(
                f"{left} of {len(missing)} long prompts have no questions ({last}); give the same command again"
            )

    def report(self, writer: VisionModel, prices: Prices) -> str:
        """Numbers of prompts and questions in the file, and the cost of the latest `write`."""
        count = sum(map(len, self.by_prompt.values()))
        lines = [f"{self._file}: {len(self.by_prompt):,} prompts, {count:,} questions"]
        if self._unusable:
            lines.append(f"  {self._unusable:,} more got no usable answer, and cannot be judged: write theirs by hand")
        lines.append(f"writer {writer.model}: {prices.report(total(self._usages))}")
        return "\n".join(lines)

    def _save(self) -> None:
        text = json.dumps(self.by_prompt, indent=1, ensure_ascii=False)
        write_atomically(self._file, lambda partial: partial.write_text(text, encoding="utf-8"))


def long_prompts(prompts: Iterable[str]) -> Sequence[str]:
    """The different prompts that are long, in order."""
    return list(dict.fromkeys(prompt.strip() for prompt in prompts if is_long(prompt)))


def _decompose(prompt: str, writer: VisionModel) -> _Asked:
    usage = Usage()
    try:
        answer = writer.counting(usage).fill(_Decomposed, [], _DECOMPOSE.format(prompt=prompt))
    except UnusableAnswer:
        return _Asked((), usage)
    return _Asked(tuple(dict.fromkeys(answer.questions)), usage)
