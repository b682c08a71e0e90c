"""Learning-rate schedules as pure functions of the step."""

import math


def warmup_cosine(step: int, *, total: int, warmup: int, peak: float, floor: float) -> float:
    """Learning rate: linear from 0 to `peak` over `warmup` steps, then a cosine to `floor` at step `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress))
