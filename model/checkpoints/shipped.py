"""Names of the checkpoints that come with the repository; imports nothing heavy."""

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_names() -> list[str]:
    """Names that `model.checkpoints.load.load` knows without a path."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
