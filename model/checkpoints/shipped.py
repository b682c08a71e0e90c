"""Names of the checkpoints shipped with the repository; imports no torch."""

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_names() -> list[str]:
    """Names that `model.checkpoints.load.load` accepts in place of a path."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
