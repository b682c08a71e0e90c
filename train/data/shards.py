"""Pictures on disk, rendered once and stored in shards."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pairs.files import write_atomically

SHARD = 2048  # pictures per file


class PictureSource(Protocol):
    """Endless list of pictures, each a function of its row number. Equal sources have equal `repr`s."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Render the picture of a row: uint8 [size, size, 3]."""


def render_images(source: PictureSource, count: int, folder: Path) -> NDArray[np.uint8]:
    """Render the first `count` rows: uint8 [count, size, size, 3], stored in shards under `folder`.

    Existing shards are read, so a killed call resumes. The folder stores the `repr` of the one source it belongs to.

    Raises:
        ValueError: the folder holds pictures of another source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = json.dumps({"source": repr(source)})
    note = folder / "source.json"
    if note.exists() and note.read_text() != identity:
        raise ValueError(f"{folder} holds pictures of another world or size; choose another folder or remove it")
    write_atomically(note, lambda path: path.write_text(identity))
    shards = [_Shard(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
    missing = [shard for shard in shards if not (folder / shard.name).exists()]
    if missing:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            work = pool.map(partial(_render_shard, source, folder), missing)
            for _ in tqdm(work, total=len(missing), desc="render", unit="shard"):
                pass
    return np.concatenate([np.load(folder / shard.name) for shard in shards])


@dataclass(frozen=True)
class _Shard:
    """Rows [start, stop) of a source, in one file."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"images-{self.start:07d}-{self.stop:07d}.npy"


def _render_shard(source: PictureSource, folder: Path, shard: _Shard) -> None:
    images = np.stack([source.image(i) for i in range(shard.start, shard.stop)])

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, images)

    write_atomically(folder / shard.name, write)
