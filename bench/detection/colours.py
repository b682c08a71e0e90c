"""Colours of detected objects, classified by CLIP without training."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, PreTrainedModel

from bench.detection.checkpoint import digest, load_network, load_part, name_of
from bench.detection.errors import GenEvalError
from bench.detection.names import COLOURS
from bench.detection.objects import DetectedObject
from model.device import choose_device

_PROMPTS = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
_GREY = (0x99, 0x99, 0x99)


def crop(picture: Image.Image, found: DetectedObject) -> Image.Image:
    """Part of a picture inside an object's box; around the object's mask, if it has one, the picture is made grey."""
    if found.mask is not None:
        grey = Image.new("RGB", picture.size, _GREY)
        picture = Image.composite(picture, grey, Image.fromarray(found.mask))
    left, top, right, bottom = (round(edge) for edge in found.box)
    return picture.crop((left, top, right, bottom))


class ClipColours:
    """Chooses for each object the colour whose prompts are nearest to its crop.

    Args:
        network: a CLIP in evaluation mode, on its device.
        processor: prepares pictures for it.
        tokenizer: of its text encoder.
        name: of the checkpoint.
    """

    def __init__(
        self, network: PreTrainedModel, processor: CLIPImageProcessorPil, tokenizer: CLIPTokenizer, *, name: str
    ) -> None:
        self._network, self._processor, self._tokenizer, self._name = network, processor, tokenizer, name
        self._classifiers: dict[str, Tensor] = {}

    @property
    def identity(self) -> Mapping[str, object]:
        """Everything that decides the colours."""
        return {"clip": self._name, "clip weights": digest(self._network)}

    @torch.inference_mode()
    def __call__(self, picture: Image.Image, name: str, objects: Sequence[DetectedObject]) -> list[str]:
        """Colours of objects of one name in a picture (RGB)."""
        if not objects:
            return []
        if name not in self._classifiers:
            self._classifiers[name] = self._classifier(name)
        pixels = self._processor([crop(picture, one) for one in objects], return_tensors="pt")["pixel_values"]
        features = self._network.get_image_features(pixel_values=pixels.to(self._network.device)).pooler_output
        nearest = (normalize(features, dim=-1) @ self._classifiers[name].T).argmax(dim=-1)
        return [COLOURS[number] for number in nearest.tolist()]

    def _classifier(self, name: str) -> Tensor:
        """(colours, features): the mean direction of each colour's prompts."""
        prompts = [prompt.format(colour=colour, name=name) for colour in COLOURS for prompt in _PROMPTS]
        inputs = self._tokenizer(prompts, padding=True, return_tensors="pt").to(self._network.device)
        features = self._network.get_text_features(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).pooler_output
        directions = normalize(features, dim=-1).view(len(COLOURS), len(_PROMPTS), -1).mean(dim=1)
        return normalize(directions, dim=-1)


def load_colours(source: str, *, device: str = "auto") -> ClipColours:
    """Load a CLIP from a folder or a hub id (downloaded, or from the hub's cache).

    Raises:
        GenEvalError: it is no CLIP, or a file is missing or damaged.
        CheckpointError: this machine has no such device.
    """
    network = load_network(source, CLIPModel, model_type="clip", device=choose_device(device))
    # PIL's, which open_clip uses too; with torchvision installed, transformers would choose another
    processor = load_part(source, "preprocessor_config.json", CLIPImageProcessorPil.from_pretrained)
    tokenizer = load_part(source, "the tokenizer", CLIPTokenizer.from_pretrained)
    if len(tokenizer) != network.config.text_config.vocab_size:  # without its files, transformers makes an empty one
        known = network.config.text_config.vocab_size
        raise GenEvalError(f"{source}: the tokenizer: has {len(tokenizer)} tokens, and the text encoder {known}")
    return ClipColours(network, processor, tokenizer, name=name_of(source))
