"""What can go wrong with a model, in one line each.

ModelError
├── CheckpointError   a checkpoint that cannot be read; names the file and what is missing
│   └── NoRoom        one for which there is no memory at present; says how much it needs
└── PromptError       a prompt that cannot be encoded; names the limit
"""


class ModelError(ValueError):
    """Base of everything here; the message is one line for people."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be loaded or written."""


class NoRoom(CheckpointError):
    """A checkpoint for which there is not enough memory at present."""


class PromptError(ModelError):
    """A prompt that the model cannot take."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
