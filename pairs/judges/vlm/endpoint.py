"""Vision-language model as judge, behind an OpenAI-compatible endpoint: its probability of answering yes."""

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import openai
from PIL import Image

from pairs.judges.judge import Judgement

logger = logging.getLogger("focusdiff")

QUESTION = 'Does this image match the description "{prompt}", please directly respond with yes or no'
_YES, _NO = ("yes", "Yes", "YES"), ("no", "No", "NO")
_ALTERNATIVES = 20  # the most log-probabilities per token that servers return
_MAX_CONCURRENT = 8


class VlmJudge:
    """Judge that asks PairComp's question (paper, section 3.2).

    The score is P(yes) / (P(yes) + P(no)) for the first token of the answer.

    Args:
        url: base URL of the endpoint, including /v1.
        model: the endpoint's name of the model.
        key: API key.
        seconds: timeout of a request; failed requests are retried twice.
    """

    def __init__(self, url: str, model: str, *, key: str = "none", seconds: float = 60.0) -> None:
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=seconds, max_retries=2)
        self._model = model

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """One judgement per picture and prompt; None where the endpoint gave no usable answer."""
        with ThreadPoolExecutor(_MAX_CONCURRENT) as pool:
            return list(pool.map(self._judge, images, prompts))

    def _judge(self, image: Image.Image, prompt: str) -> Judgement | None:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        picture = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        try:
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": picture}},
                            {"type": "text", "text": QUESTION.format(prompt=prompt)},
                        ],
                    }
                ],
                temperature=0,
                max_tokens=1,
                logprobs=True,
                top_logprobs=_ALTERNATIVES,
            )
        except openai.OpenAIError as error:
            logger.warning("the judge gave no answer: %s", error)
            return None
        told = answer.choices[0].logprobs if answer.choices else None
        if told is None or not told.content:
            logger.warning("the judge's endpoint returned no log-probabilities")
            return None
        score = yes_probability({one.token.strip(): one.logprob for one in told.content[0].top_logprobs})
        return None if score is None else Judgement(score)


def yes_probability(logprobs: Mapping[str, float]) -> float | None:
    """P(yes) / (P(yes) + P(no)) from log-probabilities of the likeliest first tokens.

    None if both words are missing. One missing word counts as likely as the least likely token given, its upper bound.
    """
    yes, no = (sum(math.exp(logprobs[word]) for word in words if word in logprobs) for words in (_YES, _NO))
    if yes == no == 0:
        return None
    rest = math.exp(min(logprobs.values()))
    return (yes or rest) / ((yes or rest) + (no or rest))
