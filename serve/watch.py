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
_LONGEST_PAUSE = 60.0  # seconds between attempts to load what there is no memory for


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

    What cannot be loaded is reported, and what was served before goes on. One for which there is no memory is tried
    again, less and less often, until there is some, or a newer one.
    """
    served: Path | None = None
    done: Path | None = None  # served, or given up
    said: tuple[Path, str] | None = None
    pause = seconds
    while True:
        newest = await asyncio.to_thread(newest_checkpoint, run)
        if newest is not None and newest not in (done, served):
            try:
                await models.load(ModelSource(name=run.resolve().name, source=str(newest)), replace=True)
                served = done = newest
                pause = seconds
            except (ValueError, ApiError, OSError, RuntimeError) as error:
                if (newest, str(error)) != said:
                    logger.error("%s is not served: %s", newest, error)
                said = newest, str(error)
                if isinstance(error, NoRoom):
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    done = newest
        await asyncio.sleep(pause)
