"""Codes of ground-truth pictures, cached on disk."""

import sqlite3
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.image_tokenizer import ImageTokenizer
from model.janus import Janus


def square(picture: Image.Image, size: int) -> Image.Image:
    """RGB picture of `size` × `size` pixels: the shorter side is scaled to `size`, then the middle is cut out."""
    width, height = picture.size
    scale = size / min(width, height)
    scaled = picture.convert("RGB")
    if scale != 1:
        scaled = scaled.resize(
            (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BICUBIC
        )
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    return scaled.crop((left, top, left + size, top + size))


def encode(picture: Image.Image, image_tokenizer: ImageTokenizer) -> Tensor:
    """Codes of a picture that has the image tokenizer's size, int64 [tokens] on the CPU."""
    # one picture at a time: in a batch, rounding could depend on the others
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
    return image_tokenizer.encode(pixels.float() / 127.5 - 1)[0].cpu()


class CodeCache:
    """Codes of pictures by content and image tokenizer; each picture is encoded once, whatever run asks for it.

    Args:
        file: SQLite file; made if missing.
        janus: gives the size of pictures, and identifies the image tokenizer by its weights.
        image_tokenizer: of the same model.
    """

    def __init__(self, file: Path, janus: Janus, image_tokenizer: ImageTokenizer) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(file, timeout=60)
        with self._database:
            self._database.execute("CREATE TABLE IF NOT EXISTS codes (key TEXT PRIMARY KEY, codes BLOB) WITHOUT ROWID")
        self._size, self._image_tokenizer = janus.image_size, image_tokenizer
        digest = sha256()
        for name, tensor in sorted(janus.network.model.vqmodel.state_dict().items()):
            digest.update(name.encode() + tensor.float().contiguous().cpu().numpy().tobytes())
        self._tokenizer_key = digest.digest()

    def codes(self, picture: Image.Image) -> Tensor:
        """Codes of a picture of any size, int64 [tokens] on the CPU."""
        resized = square(picture, self._size)
        key = sha256(self._tokenizer_key + resized.tobytes()).hexdigest()
        found = self._database.execute("SELECT codes FROM codes WHERE key = ?", (key,)).fetchone()
        if found:
            return torch.from_numpy(np.frombuffer(found[0], dtype=np.int32).astype(np.int64))
        codes = encode(resized, self._image_tokenizer)
        with self._database:
            self._database.execute(
                "INSERT OR IGNORE INTO codes VALUES (?, ?)", (key, codes.numpy().astype(np.int32).tobytes())
            )
        return codes

    def close(self) -> None:
        self._database.close()
