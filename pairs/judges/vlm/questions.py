"""Yes/no questions that a long prompt is decomposed into (paper, section 3.3), from a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pairs.judges.errors import JudgeError

LONG = 30  # words above which a prompt is decomposed; PairComp's prompts have at most 22


def is_long(prompt: str) -> bool:
    """Whether a prompt has too many details for one question."""
    return len(prompt.split()) > LONG


@dataclass(frozen=True)
class Questions:
    """Questions by prompt; a picture matches a prompt if the answers to all of them are yes."""

    by_prompt: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, file: Path) -> "Questions":
        """Read a JSON object whose keys are prompts and whose values are lists of questions.

        Raises:
            JudgeError: the file is no such object.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JudgeError(f"{file} cannot be read as JSON: {error}") from None
        if not isinstance(content, dict):
            raise JudgeError(f"{file} must be a JSON object of prompts and their lists of questions")
        return cls({prompt.strip(): _checked(file, prompt, asked) for prompt, asked in content.items()})

    def of(self, prompt: str) -> tuple[str, ...]:
        """Questions of a prompt; none if the file has none."""
        return self.by_prompt.get(prompt.strip(), ())

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all prompts and questions."""
        return sha256(json.dumps(sorted(self.by_prompt.items())).encode()).hexdigest()[:16]


def _checked(file: Path, prompt: str, asked: object) -> tuple[str, ...]:
    if not isinstance(asked, list) or not asked or not all(isinstance(one, str) and one.strip() for one in asked):
        raise JudgeError(f"{file}: the questions of {prompt!r} must be a list of at least one text")
    questions = tuple(one.strip() for one in asked)
    if len(set(questions)) < len(questions):
        raise JudgeError(f"{file}: {prompt!r} has a question twice")
    return questions
