"""Errors of training."""


class TrainingError(ValueError):
    """Training cannot go on; the message says where, why, and what was kept."""
