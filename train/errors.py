"""Errors of training."""


class TrainingError(ValueError):
    """Training cannot go on; the message says where, why, and what was kept."""


class DataError(ValueError):
    """Training data that cannot be used; the message names the file, and the row or column."""
