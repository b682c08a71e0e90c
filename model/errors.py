"""What can go wrong with a model, in one line each.

ModelError
├── CheckpointError   a checkpoint that cannot be read; names the file and what is missing
└── PromptError       a prompt that cannot be encoded; names the limit
"""


class ModelError(ValueError):
    """Base of everything here; the message is one line for people."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be loaded or written."""


class PromptError(ModelError):
    """A prompt that the model cannot take."""
