"""Options that only some parts of a command take. Imports no torch."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of a command, and the options that it takes.

    option: that chooses the part.
    takes: names of options, as in parsed arguments.
    """

    option: str
    takes: frozenset[str]


def remember_defaults(parser: argparse.ArgumentParser, parts: Collection[Part]) -> None:
    """Add the defaults of the parts' options to the parsed arguments, by which `given` knows an option."""
    names = sorted({name for part in parts for name in part.takes})
    parser.set_defaults(defaults={name: parser.get_default(name) for name in names})


def given(arguments: argparse.Namespace, name: str) -> bool:
    """Whether an option has another value than its default."""
    return bool(getattr(arguments, name) != arguments.defaults[name])


def refuse_ignored(arguments: argparse.Namespace, parts: Collection[Part], chosen: Collection[Part]) -> None:
    """Refuse options of parts that are not chosen.

    Args:
        arguments: of a parser that `remember_defaults` has seen.
        parts: of the command.
        chosen: those that run.

    Raises:
        ValueError: an option is given that none of the chosen parts takes; the message names the parts that do.
    """
    taken = {name for part in chosen for name in part.takes}
    for name in arguments.defaults:
        if name not in taken and given(arguments, name):
            *others, last = (part.option for part in parts if name in part.takes)
            needed = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(f"--{name.replace('_', '-')} needs {needed}")
