"""A vision-language model behind an OpenAI-compatible endpoint, asked for yes or no, or for JSON."""

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import openai
from PIL import Image
from pydantic import BaseModel, ValidationError

from pairs.judges.vlm.endpoint import data_url

T = TypeVar("T", bound=BaseModel)


class NoAnswer(Exception):
    """The endpoint failed after all retries, so that nothing is known; ask again later."""


class UnusableAnswer(Exception):
    """The model answered, but not in the form that was asked for."""


@dataclass
class Usage:
    """Calls answered, and the tokens that the endpoint counted for them."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class VisionModel:
    """A model at an endpoint. Each thread asks it through `counting` with a `Usage` of its own.

    url: base URL, including /v1.
    model: the endpoint's name of the model.
    key: API key.
    seconds: timeout of a request; failed requests are retried twice.
    """

    url: str
    model: str
    key: str = "none"
    seconds: float = 120.0
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._client = openai.OpenAI(base_url=self.url, api_key=self.key, timeout=self.seconds, max_retries=2)

    def counting(self, usage: Usage) -> "VisionModel":
        """The same model, whose calls are counted in `usage`."""
        other = copy.copy(self)
        other.usage = usage
        return other

    def yes(self, pictures: Sequence[Image.Image], question: str) -> bool:
        """Ask a question that is answered with yes or no.

        Raises:
            NoAnswer: the endpoint failed.
            UnusableAnswer: neither word comes first.
        """
        answer = self._ask(pictures, f"{question} Answer with yes or no only.", tokens=4)
        found = re.match(r"\W*(yes|no)\b", answer.lower())
        if found is None:
            raise UnusableAnswer(f"neither yes nor no: {answer[:80]!r}")
        return found[1] == "yes"

    def fill(self, kind: type[T], pictures: Sequence[Image.Image], question: str) -> T:
        """Ask for a JSON object of a kind, and check it.

        Raises:
            NoAnswer: the endpoint failed.
            UnusableAnswer: the answer is no such object.
        """
        answer = self._ask(pictures, question, tokens=512)
        found = re.search(r"\{.*\}", answer, re.DOTALL)  # models put words or a fence around it
        try:
            return kind.model_validate(json.loads(found[0] if found else answer))
        except (ValueError, ValidationError):
            raise UnusableAnswer(f"not the JSON asked for: {answer[:80]!r}") from None

    def _ask(self, pictures: Sequence[Image.Image], text: str, *, tokens: int) -> str:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in pictures]
        content.append({"type": "text", "text": text})
        try:
            answer = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": content}],  # type: ignore[list-item, misc]
                temperature=0,
                max_tokens=tokens,
            )
        except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is no JSON
            raise NoAnswer(f"{self.url}: {error}") from None
        self.usage.calls += 1
        if answer.usage is not None:
            self.usage.prompt_tokens += answer.usage.prompt_tokens
            self.usage.completion_tokens += answer.usage.completion_tokens
        said = answer.choices[0].message.content if answer.choices else None
        if not said:
            raise UnusableAnswer("an empty answer")
        return said
