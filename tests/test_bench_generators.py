"""Generators of pictures: the engine, and folders."""

from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from bench.pictures.errors import GenerationError
from bench.pictures.from_engine import EngineGenerator
from bench.pictures.from_folder import FolderGenerator
from bench.pictures.picture import Part, Picture
from bench.pictures.picture_file import PictureFile
from model.checkpoints.load import load
from model.generate import generate
from model.janus import Janus
from tests.drawn_parts import PICTURES, drawn


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def test_the_engine_draws_what_the_reference_loop_draws(janus: Janus) -> None:
    generator = EngineGenerator(janus, slots=3)
    for part, one in drawn(generator).items():
        codes = generate(janus, [part.prompt], seeds=[part.seed])
        assert one.codes is not None
        assert list(one.codes) == codes[0].tolist()
    assert generator.settings["sampling"] == janus.sampling.as_dict()


def test_a_prompt_that_cannot_be_encoded_is_named_with_its_file(janus: Janus) -> None:
    long = Picture("long.png", "star " * 400, (1,))
    with pytest.raises(GenerationError, match=r"long\.png: prompt"):
        drawn(EngineGenerator(janus, slots=3), [Part(long, 0)])


def test_a_folder_of_pictures_is_taken_as_it_is(tmp_path: Path) -> None:
    cells = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 80, 160, 240)]
    grid = Image.new("RGB", (8, 8))
    for number, cell in enumerate(cells):
        grid.paste(cell, (number % 2 * 4, number // 2 * 4))
    for name in ("a.png", "c.png"):
        cells[3].save(tmp_path / name)
    grid.save(tmp_path / "b.png")
    found = drawn(FolderGenerator(tmp_path, "elsewhere"))
    for number, cell in enumerate(cells):
        assert found[Part(PICTURES[1], number)].image.tobytes() == cell.tobytes()
    (tmp_path / "c.png").unlink()
    with pytest.raises(GenerationError, match=r"c\.png is missing"):
        drawn(FolderGenerator(tmp_path, "elsewhere"))


def test_what_other_programs_wrote_into_a_picture_is_no_metadata_of_ours(tmp_path: Path) -> None:
    """Text, JSON that is no object, and EXIF that cannot be read; in PNG, JPEG and WebP."""
    picture = Image.new("RGB", (4, 4), (200, 0, 0))
    comment, description = Image.Exif(), Image.Exif()
    comment.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0a cat"
    description[ExifTags.Base.ImageDescription] = "a cat"
    texts = {}
    for text in ("a cat", "[1]"):
        texts[text] = PngInfo()
        texts[text].add_text("focusdiff", text)
    saved: list[tuple[str, dict[str, Any]]] = [
        *(
            (format, {"exif": exif})
            for format in ("PNG", "JPEG", "WEBP")
            for exif in (comment, description, b"Exif\0\0x")
        ),
        *(("PNG", {"pnginfo": info}) for info in texts.values()),
    ]
    for number, (format, settings) in enumerate(saved):
        picture.save(tmp_path / "a.png", format=format, **settings)
        file = PictureFile(tmp_path / "a.png")
        assert file.metadata == {}, number
        assert file.picture().size == (4, 4)


def test_a_folder_may_have_the_names_that_genevals_own_scripts_write(tmp_path: Path) -> None:
    """Five digits, where its README has four; both at once are too many."""
    wanted = Part(Picture("00001/samples/0002.png", "a cow", (6,)), 0)
    samples = tmp_path / "00001" / "samples"
    samples.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(samples / f"{number:05d}.png")
    found = drawn(FolderGenerator(tmp_path, "elsewhere"), [wanted])
    assert found[wanted].image.getpixel((0, 0)) == (2, 0, 0)
    (samples / "0002.png").write_bytes((samples / "00002.png").read_bytes())
    with pytest.raises(GenerationError, match=r"00002\.png and 0002\.png are the same picture"):
        drawn(FolderGenerator(tmp_path, "elsewhere"), [wanted])
