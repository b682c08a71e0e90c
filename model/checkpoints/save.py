"""Write checkpoints in transformers' layout."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging

from model.checkpoints.settings_file import generation_config, write_settings
from model.decoder_weights import check_has_matrices
from model.errors import CheckpointError, first_line
from model.janus import Janus


def save(janus: Janus, folder: Path, *, also: Callable[[Path], object] = lambda folder: None) -> None:
    """Write a checkpoint in transformers' layout, with tokenizer, generation and sampling settings.

    The folder appears complete or not at all; an existing folder is refused.

    Args:
        janus: the model.
        folder: to be made.
        also: called with the unfinished folder, to put more into it.

    Raises:
        CheckpointError: the folder exists or cannot be written (disk full, no permission), or the model is int8 only.
    """
    check_has_matrices(janus.network)
    check_not_exists(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(janus, partial)
            also(partial)
            _sync(partial)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {first_line(error)}") from None


def check_not_exists(folder: Path) -> None:
    """Check that a folder does not exist yet.

    Raises:
        CheckpointError: it exists.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists; choose a new folder")


def _write(janus: Janus, folder: Path) -> None:
    folder.chmod(0o755)
    logging.disable_progress_bar()
    janus.network.generation_config = generation_config(janus.network.config, janus.ids, janus.sampling)
    janus.network.save_pretrained(folder)
    if janus.tokenizer is not None:
        janus.tokenizer.save_pretrained(folder)
    write_settings(folder, janus.sampling, janus.reward_judge)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
