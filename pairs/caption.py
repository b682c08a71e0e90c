"""Captions of scenes: a small grammar with a writer, `describe`, and a parser, `parse`."""

import re
from dataclasses import dataclass

import numpy as np

from pairs.scene import (
    COLOURS,
    FILLS,
    MAX_OBJECTS,
    SHAPES,
    TEXTS,
    Category,
    Group,
    Relation,
    Scene,
    Sign,
    Tone,
)

NUMBERS = ("one", "two", "three", "four", "five")
_LEADS = ("", "", "", "a picture of ", "an image of ")
_RELATIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_TONES: dict[Tone, tuple[str, ...]] = {
    "day": ("{} by day", "{} in daylight", "by day, {}"),
    "night": ("{} at night", "{} under the night sky", "at night, {}"),
    "sunset": ("{} at sunset", "{} in the evening light", "at sunset, {}"),
    "sketch": ("{} drawn in pencil", "{} as a pencil sketch", "a pencil sketch of {}"),
}
_SIGNS = ('sign that says "{}"', 'sign reading "{}"', 'sign with the {} "{}"')
_FILL_WORDS = {"outlined": "outlined", "hollow": "outlined", "striped": "striped", "solid": "solid"}


class CaptionError(ValueError):
    """Caption outside the grammar; the message quotes it or the part at fault."""


@dataclass(frozen=True)
class Wording:
    """The phrases that a caption uses, where the grammar has several.

    Captions of two scenes that differ in one factor differ in one or two words if they share a wording.
    `lead`, `tone`, `relation` and `sign` are indices of phrases. `one` writes "one" for "a". `say_day`
    and `say_solid` state the two defaults that are otherwise left out.
    """

    lead: int = 0
    tone: int = 0
    relation: int = 0
    sign: int = 0
    one: bool = False
    say_day: bool = False
    say_solid: bool = False

    @classmethod
    def sample(cls, rng: np.random.Generator, category: Category) -> "Wording":
        """Draw a random wording that always states the category's factor."""
        return cls(
            lead=int(rng.integers(len(_LEADS))),
            tone=int(rng.integers(3)),
            relation=int(rng.integers(2)),
            sign=int(rng.integers(len(_SIGNS))),
            one=category == "counting" or bool(rng.random() < 0.15),
            say_day=category == "style" or bool(rng.random() < 0.15),
            say_solid=category == "appearance" or bool(rng.random() < 0.1),
        )


def describe(scene: Scene, wording: Wording = Wording()) -> str:
    """Write the caption of a scene in a given wording."""
    things = [_describe_group(group, wording) for group in scene.groups]
    if scene.sign is not None:
        things.insert(0, _describe_sign(scene.sign, wording))
    joint = "and" if scene.relation is None else _RELATIONS[scene.relation][wording.relation]
    text = f" {joint} ".join(things)
    tone = _TONES[scene.tone][wording.tone] if scene.tone != "day" or wording.say_day else "{}"
    if tone.startswith("{}"):
        text = _LEADS[wording.lead] + text
    return tone.format(text)


def _describe_group(group: Group, wording: Wording) -> str:
    words: list[str] = [] if group.fill == "solid" and not wording.say_solid else [group.fill]
    words += [group.colour, group.shape + ("s" if group.count > 1 else "")]
    number = _article(words[0]) if group.count == 1 and not wording.one else NUMBERS[group.count - 1]
    return " ".join([number, *words])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _describe_sign(sign: Sign, wording: Wording) -> str:
    kind = "number" if sign.text.isdigit() else "word"
    phrase = _SIGNS[wording.sign]
    said = phrase.format(kind, sign.text) if phrase.count("{}") == 2 else phrase.format(sign.text)
    return f"{_article(sign.colour)} {sign.colour} {said}"


@dataclass(frozen=True)
class Statement:
    """Parsed caption; `names_tone` tells whether it states a tone (a time of day, or a pencil sketch)."""

    scene: Scene
    names_tone: bool


_NUMBER = (
    {word: i + 1 for i, word in enumerate(NUMBERS)} | {str(i): i for i in range(1, 6)} | {"a": 1, "an": 1, "the": 1}
)
_TONE_PATTERNS = [
    (tone, re.compile("^" + re.escape(phrase).replace(r"\{\}", "(.+?)").replace(r",\ ", r",?\ ") + "$"))
    for tone, phrases in _TONES.items()
    for phrase in phrases
]
_JOINTS: list[tuple[str, Relation | None]] = [
    (f" {phrase} ", relation)
    for relation, phrases in _RELATIONS.items()
    for phrase in sorted(phrases, key=len, reverse=True)
]
_JOINTS.append((" and ", None))
_SIGN = re.compile(
    r'^(?:an? |one |the )?(\w+) sign (?:that says|reading|saying|with the word|with the number) "?(\w+)"?$'
)


def parse(caption: str) -> Statement:
    """Parse a caption.

    Raises:
        CaptionError: the caption is outside the grammar.
    """
    text = re.sub(r"\s+", " ", caption.strip().rstrip(".").lower().replace("“", '"').replace("”", '"'))
    tone: Tone = "day"
    names_tone = False
    text = _strip_lead(text)
    for candidate, pattern in _TONE_PATTERNS:
        if found := pattern.match(text):
            tone, names_tone, text = candidate, True, _strip_lead(found.group(1).rstrip(","))
            break
    joint, relation = next(((phrase, kind) for phrase, kind in _JOINTS if phrase in text), (" and ", None))
    parts = text.split(joint)
    things = [_parse_thing(part) for part in parts]
    groups = tuple(t for t in things if isinstance(t, Group))
    signs = [t for t in things if isinstance(t, Sign)]
    if len(things) > 2 or len(signs) > 1 or (signs and (relation or sum(g.count for g in groups) > 1)):
        raise CaptionError(f"too many things in {caption!r}: at most two groups, or a sign and one object")
    if relation is not None and any(group.count != 1 for group in groups):
        raise CaptionError(f"a position needs two single objects: {caption!r}")
    if sum(group.count for group in groups) > MAX_OBJECTS:
        raise CaptionError(f"more than {MAX_OBJECTS} objects in {caption!r}")
    return Statement(Scene(groups, relation, signs[0] if signs else None, tone), names_tone)


def _strip_lead(text: str) -> str:
    return re.sub(r"^(?:(?:a|an) (?:picture|image|photo|drawing) of |there (?:is|are) )", "", text)


def _parse_thing(part: str) -> Group | Sign:
    if found := _SIGN.match(part):
        colour, text = found.group(1), found.group(2).upper()
        for known in COLOURS:
            if colour == known and text in TEXTS:
                return Sign(text, known)
        raise CaptionError(f"unknown colour or text in {part!r}; texts are {', '.join(TEXTS)}")
    words = part.split()
    count = _NUMBER.get(words[0]) if words else None
    words = words[1:] if count else words
    fill = _FILL_WORDS.get(words[0]) if words else None
    words = words[1:] if fill else words
    if len(words) == 2:
        plural = words[1].endswith("s")
        shape = words[1].removesuffix("s")
        if count is None and not plural:
            count = 1
        for known_colour in COLOURS:
            for known_shape in SHAPES:
                if (words[0], shape) == (known_colour, known_shape) and count and plural == (count > 1):
                    return Group(count, known_colour, known_shape, next((f for f in FILLS if f == fill), "solid"))
    raise CaptionError(f"not understood: {part!r} (say it like 'three red circles' or 'an outlined blue star')")
