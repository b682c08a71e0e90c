"""Error of GenEval's scorer."""


class GenEvalError(ValueError):
    """Unusable prompt, picture, folder, results file or checkpoint; the message names it and the fault, in one line."""
