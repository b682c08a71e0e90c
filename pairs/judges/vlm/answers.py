"""Score of an answer: how likely it begins with yes rather than with no."""

import math
from collections.abc import Sequence
from typing import Literal

Word = Literal["yes", "no"]
_WORDS: tuple[Word, ...] = ("yes", "no")
_ROUNDING = 1e-6  # of a sum of probabilities


def word_of(token: str) -> Word | None:
    """The word that a token spells in lower case, capitalised or in upper case, with or without spaces around it."""
    text = token.strip()
    return next((word for word in _WORDS if text in (word, word.capitalize(), word.upper())), None)


def yes_probability(alternatives: Sequence[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)) from the likeliest first tokens and their log-probabilities.

    All tokens that spell a word count. None if both words are missing; one missing word has the upper bound of its
    probability: that of the least likely token given, or what all of them leave if that is less.
    """
    sums: dict[Word | None, float] = {"yes": 0.0, "no": 0.0}
    for token, logprob in alternatives:
        word = word_of(token)
        sums[word] = sums.get(word, 0.0) + math.exp(logprob)
    yes, no = sums["yes"], sums["no"]
    if yes == no == 0:
        return None
    rest = min(math.exp(min(logprob for _, logprob in alternatives)), max(1 - sum(sums.values()), _ROUNDING))
    return (yes or rest) / ((yes or rest) + (no or rest))
