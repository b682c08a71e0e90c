"""The words in which two prompts differ, as HTML."""

from html import escape

from pairs.difference import Span, word_difference


def marked(first: str, second: str) -> tuple[str, str]:
    """Both prompts with the words that the other does not have marked."""
    a, b = word_difference(first, second)
    return _mark(first, a), _mark(second, b)


def _mark(text: str, spans: list[Span]) -> str:
    parts, end = [], 0
    for span in spans:
        parts += [escape(text[end : span.start]), f"<mark>{escape(text[span.start : span.stop])}</mark>"]
        end = span.stop
    return "".join([*parts, escape(text[end:])])
