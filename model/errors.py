"""Errors of models; every message is one line.

ModelError
├── CheckpointError   a checkpoint cannot be loaded or written; the message names the file and the fault
│   └── NoRoom        too little free memory to load it; the message says how much it needs
└── PromptError       a prompt cannot be encoded; the message names the limit
"""


class ModelError(ValueError):
    """Base class of these errors; the message is one line for users."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be loaded or written."""


class NoRoom(CheckpointError):
    """A checkpoint that does not fit into the memory that is free now."""


class PromptError(ModelError):
    """A prompt that cannot be encoded for the model."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
