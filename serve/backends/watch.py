"""Following a training run: its newest complete checkpoint replaces the one served before."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from model.errors import NoRoom
from serve.backends.errors import BackendError
from serve.backends.registry import Registry
from serve.settings.model_source import ModelSource

logger = logging.getLogger("focusdiff")
_LONGEST_PAUSE = 60.0  # seconds between attempts to load a checkpoint that does not fit into memory


def newest_checkpoint(run: Path) -> Path | None:
    """The latest complete checkpoint folder under a run's folder; None if there is none yet.

    Checkpoint folders appear complete (`model.checkpoints.save`); a folder that is being written starts with a dot.
    """
    found = [
        config.parent.resolve()  # a run links to its newest checkpoint
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


async def follow(registry: Registry, run: Path, *, seconds: float = 2.0) -> None:
    """Serve the newest checkpoint of a run under the run's name; never returns.

    A checkpoint that cannot be loaded is logged, and the one before stays. One that does not fit into memory is tried
    again, less and less often, until it fits or a newer one appears.

    Args:
        registry: serves it.
        run: folder of the training run.
        seconds: between two looks at the folder.
    """
    served: Path | None = None
    done: Path | None = None  # served, or cannot be loaded
    said: tuple[Path, str] | None = None
    pause = seconds
    while True:
        newest = await asyncio.to_thread(newest_checkpoint, run)
        if newest is not None and newest not in (done, served):
            try:
                await registry.load(ModelSource(name=run.resolve().name, source=str(newest)), replace=True)
                served = done = newest
                pause = seconds
            except (ValueError, BackendError, OSError, RuntimeError) as error:
                if (newest, str(error)) != said:
                    logger.error("%s is not served: %s", newest, error)
                said = newest, str(error)
                if isinstance(error, NoRoom):
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    done = newest
        await asyncio.sleep(pause)
