"""Errors of runs.

ValueError
├─ RunError           a run's folder or one of its files cannot be used
└─ GenerationError    a picture cannot be drawn
"""


class RunError(ValueError):
    """A run's folder, or a picture's file, cannot be used; the message names it and says why."""


class GenerationError(ValueError):
    """A generator cannot draw a picture, or is gone; the message says why."""
