"""Following a training run: its newest finished checkpoint takes the place of the one before."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from model.errors import NoRoom
from serve.config import ModelSource
from serve.errors import ApiError
from serve.models import Models

logger = logging.getLogger("focusdiff")


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint folder under a run's folder that was finished last; None if there is none yet.

    A checkpoint folder appears whole (`model.checkpoint.save`); what is being written starts with a dot.
    """
    found = [
        config.parent
        for pattern in ("config.json", "*/config.json", "*/*/config.json")
        for config in run.glob(pattern)
        if not any(part.startswith(".") for part in config.parent.relative_to(run).parts)
        and any(config.parent.glob("*.safetensors"))
    ]
    ages: dict[Path, float] = {}
    for folder in found:
        with suppress(FileNotFoundError):  # removed meanwhile
            ages[folder] = (folder / "config.json").stat().st_mtime
    return max(ages, key=ages.__getitem__, default=None)


async def follow(models: Models, run: Path, *, seconds: float = 2.0) -> None:
    """Serve the newest checkpoint of a run under the run's name, for ever.

    One that cannot be loaded is reported once, and what was served before goes on; one for which there is
    no memory is tried again until there is, or a newer one.
    """
    done: Path | None = None
    reported: Path | None = None
    while True:
        newest = await asyncio.to_thread(newest_checkpoint, run)
        if newest is not None and newest != done:
            done = newest
            try:
                await models.load(ModelSource(name=run.resolve().name, source=str(newest)), replace=True)
            except (ValueError, ApiError, OSError, RuntimeError) as error:
                if newest != reported:
                    logger.error("%s is not served: %s", newest, error)
                reported = newest
                if isinstance(error, NoRoom):
                    done = None
        await asyncio.sleep(seconds)
