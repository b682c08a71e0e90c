"""Words that differ between two prompts, as HTML and on one line."""

from html import escape

from pairs.difference import Span, word_difference


def marked(first: str, second: str) -> tuple[str, str]:
    """Both prompts as HTML, with the words that the other lacks marked."""
    a, b = word_difference(first, second)
    return _mark(first, a), _mark(second, b)


def contrast(first: str, second: str) -> str:
    """Both prompts on one line: "three → four red circles" if they differ in one place, else "first / second"."""
    a, b = word_difference(first, second)
    if (
        len(a) == len(b) == 1
        and first[: a[0].start] == second[: b[0].start]
        and first[a[0].stop :] == second[b[0].stop :]
    ):
        words = first[a[0].start : a[0].stop], second[b[0].start : b[0].stop]
        return first[: a[0].start] + " → ".join(words) + first[a[0].stop :]
    return f"{first} / {second}"


def _mark(text: str, spans: list[Span]) -> str:
    parts, end = [], 0
    for span in spans:
        parts += [escape(text[end : span.start]), f"<mark>{escape(text[span.start : span.stop])}</mark>"]
        end = span.stop
    return "".join([*parts, escape(text[end:])])
