"""Pictures of cameras, which are stored lying and say in their EXIF data how to turn them, are read upright."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from bench.pictures import picture_file
from serve.http.routes.judgements import open_images
from train.data import row

READERS: list[Callable[[Path], Image.Image]] = [
    lambda path: row.PictureFile(path).open(),
    lambda path: row.decode(path.read_bytes()),
    lambda path: picture_file.PictureFile(path).picture(),
    lambda path: open_images({"images[0][0]": base64.b64encode(path.read_bytes()).decode()})[0],
]


def saved(path: Path, picture: Image.Image, exif: Image.Exif | bytes) -> Path:
    picture.save(path, format="PNG", exif=exif)
    return path


@pytest.mark.parametrize("read", READERS, ids=["file", "bytes", "bench", "served"])
def test_a_picture_is_turned_as_its_exif_orientation_says(read: Callable[[Path], Image.Image], tmp_path: Path) -> None:
    upright = Image.new("RGB", (30, 20), "red")
    upright.paste("blue", (0, 0, 30, 10))  # blue above red
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    file = saved(tmp_path / "a.png", upright.transpose(Image.Transpose.ROTATE_90), exif)
    with Image.open(file) as lying:
        assert lying.size == (20, 30)
    assert read(file).tobytes() == upright.tobytes()
    assert ExifTags.Base.Orientation not in read(file).getexif()  # or it would be turned once more


@pytest.mark.parametrize("read", READERS, ids=["file", "bytes", "bench", "served"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0x", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"]
)
def test_a_picture_with_damaged_exif_is_read_as_it_lies(
    read: Callable[[Path], Image.Image], exif: bytes, tmp_path: Path
) -> None:
    """Cut short, or an orientation of 99."""
    picture = Image.effect_noise((30, 20), 50).convert("RGB")
    assert read(saved(tmp_path / "a.png", picture, exif)).tobytes() == picture.tobytes()
