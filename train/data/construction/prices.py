"""Cost of what models were asked."""

from collections.abc import Iterable
from dataclasses import dataclass

from train.data.construction.vision_model import Usage


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, usage: Usage) -> float:
        """Dollars."""
        return (self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens) / 1e6

    def report(self, usage: Usage) -> str:
        """Calls, tokens and dollars."""
        tokens = f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"
        return f"{usage.calls:,} calls, {tokens}, ${self.cost(usage):.2f}"


def total(usages: Iterable[Usage]) -> Usage:
    """Sum of usages."""
    result = Usage()
    for one in usages:
        result.calls += one.calls
        result.prompt_tokens += one.prompt_tokens
        result.completion_tokens += one.completion_tokens
    return result
