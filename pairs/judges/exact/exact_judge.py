"""The exact judge of the procedural world: measures from the pixels whether a picture shows its caption."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import prod

from PIL import Image

from pairs.caption import CaptionError, Statement, parse
from pairs.judges.exact.pixels import ramp
from pairs.judges.exact.reading import ObjectReading, Reading, read
from pairs.judges.judge import Judgement
from pairs.scene import Group, Relation


class ExactJudge:
    """Judge that reads the picture, scores every factor of the caption and multiplies the scores.

    It uses no model, so scores of different checkpoints are comparable. A prompt outside the
    caption grammar cannot be judged and gives None.
    """

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """One judgement per picture and prompt; pictures may have any size."""
        judgements: list[Judgement | None] = []
        for image, prompt in zip(images, prompts, strict=True):
            try:
                statement = parse(prompt)
            except CaptionError:
                judgements.append(None)
                continue
            judgements.append(compare(read(image), statement))
        return judgements

    def reads(self, prompt: str) -> bool:
        """Whether a prompt is in the caption grammar."""
        try:
            parse(prompt)
        except CaptionError:
            return False
        return True


def compare(reading: Reading, statement: Statement) -> Judgement:
    """Score each factor in [0, 1]; the judgement's score is their product.

    Objects are matched with the caption's in the order that scores best.
    """
    scene = statement.scene
    factors = {"backdrop": reading.backdrop, "clean": reading.clean}
    if statement.names_tone:
        factors["tone"] = reading.tones[scene.tone]
    factors["count"] = float(
        len(reading.objects) == scene.object_count and (reading.board is None) == (scene.sign is None)
    )
    if scene.sign is not None and reading.board is not None:
        factors["board"] = reading.board.shape
        factors["board colour"] = reading.board.colours[scene.sign.colour]
        factors["text"] = reading.board.spells(scene.sign.text)
    wanted = [group for group in scene.groups for _ in range(group.count)]
    if wanted and factors["count"] == 1.0:
        orders = _orders(reading.objects, scene.groups[0].count)
        looks = [_look(order, wanted, scene.relation) for order in orders]
        best = max(range(len(looks)), key=lambda i: prod(looks[i].values()))
        factors |= looks[best]
    return Judgement(prod(factors.values()), factors)


def _orders(objects: Sequence[ObjectReading], first: int) -> Iterator[list[ObjectReading]]:
    """Orders in which the `first` objects, the caption's first group, differ; the order in a group does not matter."""
    numbers = range(len(objects))
    for chosen in combinations(numbers, first):
        rest = [number for number in numbers if number not in chosen]
        yield [objects[number] for number in (*chosen, *rest)]


def _look(objects: Sequence[ObjectReading], wanted: list[Group], relation: Relation | None) -> dict[str, float]:
    pairs = list(zip(objects, wanted, strict=True))
    look = {
        "colour": min(o.colours[g.colour] for o, g in pairs),
        "shape": min(o.shapes[g.shape] for o, g in pairs),
        "fill": min(o.fills[g.fill] for o, g in pairs),
        "drawn": min(o.drawn for o, _ in pairs),
    }
    if relation is not None:
        look["position"] = _position_score(objects[0], objects[1], relation)
    return look


def _position_score(first: ObjectReading, second: ObjectReading, relation: Relation) -> float:
    """Score in [0, 1] for the first object lying on the named side of the second."""
    right, down = second.x - first.x, second.y - first.y
    along = {"left of": right, "right of": -right, "above": down, "below": -down}[relation]
    across = abs(down) if relation in ("left of", "right of") else abs(right)
    return ramp(along, 0.08, 0.2) * ramp(along - across, 0.0, 0.1)
