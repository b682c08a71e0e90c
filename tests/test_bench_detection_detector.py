"""The detector on a tiny random Mask2Former: against a pass by hand, its input, neighbours, and unusable folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerForUniversalSegmentation

from bench.detection.detector import Detector, InputSize, load_detector
from bench.detection.errors import GenEvalError
from bench.detection.objects import DetectedObject
from tests.tiny_clip import save_tiny_clip
from tests.tiny_mask2former import LABELS, save_tiny_mask2former

SMALL = InputSize(shorter=64, longer=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "tiny-mask2former"
    save_tiny_mask2former(folder)
    return folder


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    return load_detector(str(folder), device="cpu", size=SMALL, batch=2)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def by_hand(folder: Path, picture: Image.Image) -> list[tuple[str, float, tuple[int, ...]]]:
    """Label, score and box of all 100 candidates, from a pass over a picture of 64 × 64, one candidate at a time."""
    network = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    pixels = (np.array(picture) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    with torch.no_grad():
        outputs = network(pixel_values=torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32))
    odds = np.exp(outputs.class_queries_logits[0].double().numpy())
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    masks = torch.nn.functional.interpolate(outputs.masks_queries_logits, scale_factor=4, mode="bilinear")[0].numpy()
    pairs = sorted(((probabilities[q, c], q, c) for q in range(10) for c in range(80)), reverse=True)[:100]
    found: list[tuple[str, float, tuple[int, ...]]] = []
    for probability, query, label in pairs:
        inside = masks[query] > 0
        if inside.any():
            quality = (1 / (1 + np.exp(-masks[query][inside].astype(float)))).mean()
            y, x = np.nonzero(inside)
            found.append((LABELS[label], probability * quality, (x.min(), y.min(), x.max() + 1, y.max() + 1)))
    return found


def test_objects_are_those_of_a_pass_by_hand(folder: Path, detector: Detector) -> None:
    (objects,) = detector([noise(64, 64)])
    expected = by_hand(folder, noise(64, 64))
    assert len(expected) > 50
    back = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
    assert sorted((back.get(one.name, one.name), *one.box) for one in objects) == sorted(
        (label, *box) for label, _, box in expected
    )
    assert sorted(one.score for one in objects) == pytest.approx(sorted(score for _, score, _ in expected), abs=1e-5)
    assert max(one.score for one in objects) > 2 * min(one.score for one in objects)


def same(one: list[DetectedObject], other: list[DetectedObject]) -> bool:
    key = [(found.name, found.box) for found in one]
    return key == [(found.name, found.box) for found in other] and np.allclose(
        [found.score for found in one], [found.score for found in other], atol=1e-6
    )


def test_neighbours_do_not_change_what_is_found(detector: Detector) -> None:
    """Pictures of several sizes, so that a common batch would need padding."""
    pictures = [noise(64, 64, 1), noise(40, 90, 2), noise(64, 64, 3), noise(90, 40, 4), noise(64, 64, 5)]
    alone = [detector([picture])[0] for picture in pictures]
    assert not same(alone[0], alone[2])
    assert all(map(same, detector(pictures), alone))
    assert all(map(same, detector(pictures[::-1]), alone[::-1]))
    assert detector([]) == []


def test_masks_and_boxes_are_in_the_pictures_own_pixels(detector: Detector) -> None:
    (objects,) = detector([noise(90, 40, 4)])
    for one in objects:
        assert one.mask is not None
        assert one.mask.shape == (40, 90)
        left, top, right, bottom = map(int, one.box)
        assert one.mask[top:bottom, left:right].sum() == one.mask.sum()
        assert one.mask[top:bottom, left].any()
        assert one.mask[top:bottom, right - 1].any()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (384, 384, (800, 800)),
        (1024, 1024, (800, 800)),
        (480, 640, (800, 1067)),
        (640, 480, (1067, 800)),
        (512, 1024, (667, 1333)),  # the longer side is the limit
    ],
)
def test_pictures_are_scaled_to_mmdetections_size(height: int, width: int, expected: tuple[int, int]) -> None:
    assert InputSize().of(height, width) == expected


def test_the_input_is_padded_with_grey_on_the_right_and_at_the_bottom(detector: Detector) -> None:
    """40 × 20 becomes 128 × 64; 100 × 90 becomes 71 × 64, and 96 × 64 with padding."""
    assert detector._prepare(noise(40, 20), SMALL.of(20, 40)).shape == (3, 64, 128)
    inputs = detector._prepare(Image.new("RGB", (100, 90), "white"), SMALL.of(90, 100))
    assert inputs.shape == (3, 64, 96)
    red = [(value / 255 - 0.5) / 0.2 for value in (255, 128)]
    assert np.allclose(inputs[0, :, :71], red[0], atol=1e-5)
    assert np.allclose(inputs[0, :, 71:], red[1], atol=1e-5)


def test_scaling_is_bilinear_without_smoothing(detector: Detector) -> None:
    """Shrunk by four, a pixel is the mean of the four in the middle of its sixteen, as in OpenCV; to whole levels."""
    picture = noise(256, 256)
    red = np.array(picture)[..., 0].astype(float)
    middle = (red[1::4, 1::4] + red[1::4, 2::4] + red[2::4, 1::4] + red[2::4, 2::4]) / 4
    levels = detector._prepare(picture, (64, 64))[0].numpy() * 0.2 * 255 + 0.5 * 255
    assert np.abs(levels - middle).max() < 0.51
    assert np.abs(levels - levels.round()).max() < 1e-3


def test_identity_names_the_weights(folder: Path, detector: Detector, tmp_path: Path) -> None:
    copy = tmp_path / "tiny-mask2former"
    shutil.copytree(folder, copy)
    assert load_detector(str(copy), device="cpu", size=SMALL).identity == detector.identity
    assert detector.identity["detector"] == "tiny-mask2former"
    tensors = load_file(copy / "model.safetensors")
    next(iter(tensors.values())).view(-1)[-1] += 1e-3
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_detector(str(copy), device="cpu", size=SMALL).identity != detector.identity


def relabel(folder: Path, number: str, label: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"][number] = label
    (folder / "config.json").write_text(json.dumps(config))


def drop_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["class_predictor.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: "),
    "another kind": (save_tiny_clip, "must be a mask2former checkpoint, not clip"),
    "other classes": (lambda folder: relabel(folder, "16", "wolf"), "has no label for dog"),
    "no mean": (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json: "),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "the weights: "),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100), "the weights: "),
    "a tensor is missing": (drop_a_weight, "the weights lack class_predictor.bias"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_folder_is_one_line_that_says_why(folder: Path, tmp_path: Path, case: str) -> None:
    damage, said = UNUSABLE[case]
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(GenEvalError) as error:
        load_detector(str(copy), device="cpu")
    assert said in str(error.value)
    assert "damaged" in str(error.value)
    assert "\n" not in str(error.value)
