"""Error of judges."""


class JudgeError(ValueError):
    """A judge that cannot be opened; the message names the setting or file and the fault, in one line."""
