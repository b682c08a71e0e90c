"""The training set: pictures of the procedural world in shards, each row a function of its number."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pairs.caption import Wording, describe
from pairs.files import write_atomically
from pairs.layout import LARGE, Layout, Placed, place_board, places_beside, scatter
from pairs.render import render, render_layout
from pairs.scene import CATEGORIES, TONES, Category, Scene
from pairs.world import World, sample_look, sample_sign

SHARD = 2048
_TONE_WEIGHTS = (0.22, 0.38, 0.2, 0.2)  # night is the hardest to draw


class PictureSource(Protocol):
    """An endless list of pictures, each a function of its number; `repr` tells sources apart."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of a row: [size, size, 3]."""


@dataclass(frozen=True)
class CrowdedPictures:
    """Pictures without captions, for the image tokenizer.

    Pictures that captions describe are mostly sky, and show stripes rarely, stripes at night more
    rarely still. Here a picture holds up to six objects, and every look meets every tone, which
    trains a tokenizer several times faster. All looks are shown, held-out ones too: the tokenizer
    is a codec and learns no words; what is held out is the way from a caption to codes.
    """

    seed: int
    size: int

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of a row: [size, size, 3]."""
        rng = np.random.default_rng([self.seed, index, 2])
        tone = TONES[rng.choice(len(TONES), p=_TONE_WEIGHTS)]
        board = None
        places = scatter(rng, int(rng.integers(2, 7)))
        if rng.random() < 0.3:
            high = bool(rng.random() < 0.7)
            board = place_board(sample_sign(rng), rng, high=high)
            beside = rng.permutation(places_beside(board)).tolist() if high else []
            places = list({x: (x, y, LARGE) for x, y in beside}.values())  # one a side
        objects = []
        for x, y, radius in places:
            look = sample_look(rng)
            # no caption speaks of small objects that are outlined or striped
            objects.append(Placed(look if radius == LARGE else replace(look, fill="solid"), x, y, radius))
        return render_layout(Layout(tone, tuple(objects), board, index), self.size)


@dataclass(frozen=True)
class SceneSource:
    """An endless list of training scenes: row i is the same scene and picture wherever it is made."""

    world: World
    seed: int
    size: int
    category_weights: tuple[float, ...] = (1.0,) * len(CATEGORIES)

    def scene(self, index: int) -> tuple[Category, Scene]:
        """The scene of a row and the category it was drawn for."""
        rng = np.random.default_rng([self.seed, index])
        weights = np.array(self.category_weights)
        category = CATEGORIES[rng.choice(len(CATEGORIES), p=weights / weights.sum())]
        return category, self.world.sample(rng, category)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of a row: [size, size, 3]."""
        return render(self.scene(index)[1], index, self.size)

    def caption(self, index: int, epoch: int) -> str:
        """A caption of a row; every epoch words it anew."""
        category, scene = self.scene(index)
        return describe(scene, Wording.draw(np.random.default_rng([self.seed, index, epoch, 1]), category))


def render_images(source: PictureSource, count: int, folder: Path) -> NDArray[np.uint8]:
    """Pictures of the first `count` rows, [count, size, size, 3], kept in shards under `folder`.

    Shards that exist are read, so a killed call goes on where it stopped. The folder must belong to
    one source: its settings are written there and compared.

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
    """Rows start … stop − 1 of a source, in one file."""

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
