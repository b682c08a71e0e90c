"""A vision-language model behind an OpenAI-compatible endpoint."""

import asyncio
import base64
import io
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import openai
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from pairs.judges.vlm.answers import yes_probability

logger = logging.getLogger("focusdiff")

_ALTERNATIVES = 20  # the most log-probabilities per token that servers return
_RETRIES = 2


class _Alternative(BaseModel):
    token: str
    logprob: Annotated[float, Field(le=1)]  # not NaN; some servers round above 0


class _Token(BaseModel):
    top_logprobs: list[_Alternative] = Field(min_length=1)


class _Logprobs(BaseModel):
    content: list[_Token] = Field(min_length=1)


class _Choice(BaseModel):
    logprobs: _Logprobs


class _Answer(BaseModel):
    """The part of a chat completion that is needed, checked: servers and proxies answer with all kinds of things."""

    choices: list[_Choice] = Field(min_length=1)


class EndpointVlm:
    """Asks for the log-probabilities of an answer's first token.

    Connection errors, timeouts and the statuses 408, 409, 429 and 5xx are retried twice, with back-off or after the
    time that the server names. What then fails is logged, and its answer is None.

    Args:
        url: base URL of the endpoint, including /v1.
        model: the endpoint's name of the model.
        key: API key.
        at_once: requests at the same time.
        seconds: time limit of a request; an answer takes at most three times as long, all retries and waits included.
    """

    def __init__(self, url: str, model: str, *, key: str = "none", at_once: int = 8, seconds: float = 60.0) -> None:
        self._url, self._model, self._key = url, model, key
        self._at_once, self._seconds = at_once, seconds
        self._asking: dict[asyncio.Task[object], asyncio.AbstractEventLoop] = {}
        self._stopped = False

    def stop(self) -> None:
        """End the questions in flight without an answer, and ask no more; from any thread."""
        self._stopped = True
        for task, loop in self._asking.copy().items():
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(task.cancel)

    def yes(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float | None]:
        """Probabilities of yes (`pairs.judges.vlm.vlm.Vlm`)."""
        files = {id(picture): data_url(picture) for picture in pictures}  # a picture may have many questions
        try:
            return asyncio.run(self._ask_all([files[id(picture)] for picture in pictures], questions))
        except asyncio.CancelledError:
            return [None] * len(questions)

    async def _ask_all(self, files: Sequence[str], questions: Sequence[str]) -> list[float | None]:
        task = asyncio.current_task()
        assert task is not None
        self._asking[task] = asyncio.get_running_loop()
        try:
            return [None] * len(questions) if self._stopped else await self._ask_together(files, questions)
        finally:
            del self._asking[task]

    async def _ask_together(self, files: Sequence[str], questions: Sequence[str]) -> list[float | None]:
        places = asyncio.Semaphore(self._at_once)
        async with openai.AsyncOpenAI(
            base_url=self._url, api_key=self._key, timeout=self._seconds, max_retries=_RETRIES
        ) as client:

            async def ask(file: str, question: str) -> float | None:
                async with places:
                    return await self._ask(client, file, question)

            return await asyncio.gather(*map(ask, files, questions))

    async def _ask(self, client: openai.AsyncOpenAI, file: str, question: str) -> float | None:
        limit = (_RETRIES + 1) * self._seconds
        try:
            # the client's own limit is on each wait for bytes: an answer that trickles in would never end
            async with asyncio.timeout(limit):
                answer = await client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": file}},
                                {"type": "text", "text": question},
                            ],
                        }
                    ],
                    temperature=0,
                    max_tokens=1,
                    logprobs=True,
                    top_logprobs=_ALTERNATIVES,
                )
            told = _Answer.model_validate_json(answer.content).choices[0].logprobs.content[0].top_logprobs
        except openai.OpenAIError as error:
            logger.warning("the judge gave no answer: %s", error)
            return None
        except TimeoutError:
            logger.warning("the judge gave no answer in %g seconds", limit)
            return None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            logger.warning("the judge's endpoint returned no log-probabilities: %s: %s", place, first["msg"])
            return None
        return yes_probability([(one.token, one.logprob) for one in told])


def data_url(picture: Image.Image) -> str:
    """A picture as a URL that contains it, in PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
