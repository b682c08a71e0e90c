"""A vision-language model as judge, behind an OpenAI-compatible endpoint: how likely is it to say yes?"""

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import openai
from PIL import Image

from pairs.judge import Judgement

logger = logging.getLogger("focusdiff")

QUESTION = 'Does this image match the description "{prompt}", please directly respond with yes or no'
_YES, _NO = ("yes", "Yes", "YES"), ("no", "No", "NO")
_ALTERNATIVES = 20  # the most that servers tell of a token's alternatives
_AT_ONCE = 8


class VlmJudge:
    """PairComp's question (paper, section 3.2): P(yes) / (P(yes) + P(no)) of the answer's first token.

    Args:
        url: of the endpoint, up to and with /v1.
        model: as the endpoint calls it.
        key: of the endpoint.
        seconds: after which an answer is given up; failed requests are tried again twice.
    """

    def __init__(self, url: str, model: str, *, key: str = "none", seconds: float = 60.0) -> None:
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=seconds, max_retries=2)
        self._model = model

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """One judgement for each picture and its prompt; None where the endpoint gave none."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
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
            logger.warning("the judge's endpoint tells no log-probabilities")
            return None
        score = yes_probability({one.token.strip(): one.logprob for one in told.content[0].top_logprobs})
        return None if score is None else Judgement(score)


def yes_probability(logprobs: Mapping[str, float]) -> float | None:
    """P(yes) / (P(yes) + P(no)) from the likeliest first tokens; None if neither is among them.

    A word that is missing is no likelier than the last of those told, and is counted as that.
    """
    yes, no = (sum(math.exp(logprobs[word]) for word in words if word in logprobs) for words in (_YES, _NO))
    if yes == no == 0:
        return None
    rest = math.exp(min(logprobs.values()))
    return (yes or rest) / ((yes or rest) + (no or rest))
