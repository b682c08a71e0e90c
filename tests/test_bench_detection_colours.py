"""Colours of objects on a tiny random CLIP: crops, the zero-shot classifier by hand, and unusable folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from bench.detection.colours import ClipColours, crop, load_colours
from bench.detection.errors import GenEvalError
from bench.detection.names import COLOURS
from bench.detection.objects import Box, DetectedObject
from tests.geneval_scenes import draw
from tests.tiny_clip import save_tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours") / "tiny-clip"
    save_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def colours(folder: Path) -> ClipColours:
    return load_colours(str(folder), device="cpu")


def test_a_crop_is_the_box_and_grey_around_the_mask() -> None:
    picture = draw([("dog", "red", 16, 16)])
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:30, 20:40] = True  # partly on white
    box = Box(18, 16, 42, 32)
    cut = np.array(crop(picture, DetectedObject("dog", box, 0.9, mask)))
    assert cut.shape == (16, 24, 3)
    assert (cut[4:14, 2:14] == (255, 0, 0)).all()
    assert (cut[4:14, 14:22] == 255).all()
    outside = np.ones((16, 24), dtype=bool)
    outside[4:14, 2:22] = False
    assert (cut[outside] == 0x99).all()
    bare = crop(picture, DetectedObject("dog", box, 0.9))
    assert bare.tobytes() == picture.crop((18, 16, 42, 32)).tobytes()


def by_hand(folder: Path, cut: Image.Image, name: str) -> list[float]:
    """Cosines of a crop and each colour's direction, one prompt at a time."""
    network = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)

    def unit(vector: torch.Tensor) -> torch.Tensor:
        return vector.double() / vector.double().square().sum().sqrt()

    with torch.no_grad():
        pixels = CLIPImageProcessorPil.from_pretrained(folder)(cut, return_tensors="pt")["pixel_values"]
        seen = unit(network.visual_projection(network.vision_model(pixels).pooler_output)[0])
        cosines = []
        for colour in COLOURS:
            texts = (
                f"a photo of a {colour} {name}",
                f"a photo of a {colour}-colored {name}",
                f"a photo of a {colour} object",
            )
            told = torch.zeros(12, dtype=torch.float64)
            for text in texts:
                ids = tokenizer(text, return_tensors="pt")["input_ids"]
                told += unit(network.text_projection(network.text_model(ids).pooler_output)[0])
            cosines.append(float(seen @ unit(told)))
    return cosines


def test_colours_are_those_of_a_classifier_by_hand(folder: Path, colours: ClipColours) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    boxes = [Box(0, 0, 30, 20), Box(20, 10, 64, 64), Box(5, 40, 20, 60), Box(0, 0, 64, 64)]
    masks = [None, np.tri(64, dtype=bool), None, None]
    objects = [DetectedObject("hot dog", box, 0.9, mask) for box, mask in zip(boxes, masks, strict=True)]
    for name in ("hot dog", "tv"):
        expected = [by_hand(folder, crop(picture, one), name) for one in objects]
        assert colours(picture, name, objects) == [COLOURS[int(np.argmax(cosines))] for cosines in expected]
        assert all(max(cosines) - min(cosines) > 0.01 for cosines in expected)


def test_padding_of_shorter_prompts_changes_no_direction(colours: ClipColours) -> None:
    """Prompts have different lengths; alone, a colour has the direction that it has in the batch."""
    together = colours._classifier("dog")
    assert together.shape == (10, 12)
    assert torch.allclose(together.norm(dim=1), torch.ones(10))
    assert colours(Image.new("RGB", (64, 64)), "dog", []) == []


def test_identity_names_the_weights(folder: Path, colours: ClipColours) -> None:
    assert colours.identity["clip"] == "tiny-clip"
    assert load_colours(str(folder), device="cpu").identity == colours.identity
    with torch.no_grad():
        other = load_colours(str(folder), device="cpu")
        other._network.text_projection.weight[-1, -1] += 1e-3
    assert other.identity != colours.identity


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_one_line_that_says_which(folder: Path, tmp_path: Path, missing: str) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    (copy / missing).unlink()
    with pytest.raises(GenEvalError) as error:
        load_colours(str(copy), device="cpu")
    part = {"tokenizer.json": "the tokenizer", "model.safetensors": "the weights"}.get(missing, missing)
    assert str(error.value).startswith(f"{copy}: {part}: ")
    assert "\n" not in str(error.value)
