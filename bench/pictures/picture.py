"""Pictures that a benchmark asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A picture file.

    file: relative to the folder of pictures, as the benchmark's official evaluator expects it.
    prompt: what it shows.
    seeds: one; or four, which are drawn as a 2 × 2 grid, row by row.
    """

    file: str
    prompt: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One drawing of a picture: all of it, or a cell of its grid."""

    picture: Picture
    number: int

    @property
    def prompt(self) -> str:
        return self.picture.prompt

    @property
    def seed(self) -> int:
        return self.picture.seeds[self.number]
