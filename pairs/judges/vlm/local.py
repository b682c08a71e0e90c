"""A vision-language model in this process, in transformers' layout (InternVL3-…-hf, Qwen2.5-VL and others)."""

import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import logging as transformers_logging

from pairs.judges.errors import JudgeError
from pairs.judges.vlm.answers import Word, word_of

logger = logging.getLogger("focusdiff")

_SAMPLE = 1024  # weights of each tensor that the digest looks at
_TRIAL = "Is this picture white?"


class LocalVlm:
    """Reads P(yes) and P(no) from the logits of an answer's first token.

    Args:
        network: in evaluation mode, on its device.
        processor: of the same model.
        name: of the model.
        batch: questions in one forward pass.

    Raises:
        JudgeError: no token of the vocabulary spells yes, or none no.
    """

    def __init__(self, network: PreTrainedModel, processor: ProcessorMixin, *, name: str, batch: int) -> None:
        self._network, self._processor, self._batch = network, processor, batch
        self.name = name
        self._words = _token_ids(processor.tokenizer, name)
        added = processor.tokenizer.added_tokens_decoder.values()
        self._special = tuple(token.content for token in added if token.special)

    @property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 of names and shapes of all weights, and the first values of each."""
        digest = sha256()
        for name, tensor in sorted(self._network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1)[:_SAMPLE].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def yes(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float | None]:
        """Probabilities of yes (`pairs.judges.vlm.vlm.Vlm`).

        None where a logit is not finite, or where the question contains a special token of the model, which would end
        the user's turn or stand for a picture.
        """
        answers: list[float | None] = [None] * len(questions)
        places = [i for i, question in enumerate(questions) if not any(token in question for token in self._special)]
        if len(places) < len(questions):
            logger.warning(
                "%d questions contain special tokens of the judge, and are not asked", len(questions) - len(places)
            )
        for start in range(0, len(places), self._batch):
            batch = places[start : start + self._batch]
            answered = self._ask([pictures[i] for i in batch], [questions[i] for i in batch])
            for place, yes in zip(batch, answered, strict=True):
                answers[place] = yes
        return answers

    def _ask(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float | None]:
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": one}, {"type": "text", "text": question}]}]
            for one, question in zip(pictures, questions, strict=True)
        ]
        inputs = self._processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self._network.device, self._network.dtype)
        with torch.inference_mode():
            # `generate` knows each model's positions of padded rows
            made = self._network.generate(
                **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        logits = made.logits[0].float()
        yes, no = (logits[:, self._words[word]].logsumexp(dim=-1) for word in ("yes", "no"))
        return [float(one) if one.isfinite() else None for one in (yes - no).sigmoid().cpu()]


def load_local(source: str, *, device: str, batch: int) -> LocalVlm:
    """Load a model: bfloat16 on an accelerator, float32 on a CPU.

    Args:
        source: folder, or hub id (downloaded, or from the hub's cache).
        device: "auto" takes an accelerator where there is one.
        batch: questions in one forward pass.

    Raises:
        JudgeError: it is no vision-language model, a file is missing or damaged, or it cannot answer a question.
    """
    transformers_logging.disable_progress_bar()
    folder = Path(source).expanduser()
    place, name = (str(folder), folder.resolve().name) if folder.is_dir() else (source, source)
    chosen = _accelerator_or_cpu() if device == "auto" else torch.device(device)
    config = _load(source, "config.json", AutoConfig.from_pretrained, place, trust_remote_code=False)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or type(config) not in PROCESSOR_MAPPING:
        raise JudgeError(f"{source}: {config.model_type} is not a vision-language model")
    processor = _load(source, "the processor", _pictures_only(config).from_pretrained, place)
    if not processor.chat_template:
        raise JudgeError(f"{source}: has no chat template (chat_template.jinja)")
    network, info = _load(
        source,
        "the weights",
        AutoModelForImageTextToText.from_pretrained,
        place,
        dtype=torch.float32 if chosen.type == "cpu" else torch.bfloat16,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise JudgeError(f"{source}: the weights lack {min(info['missing_keys'])}")
    vlm = LocalVlm(network.to(chosen).eval(), processor, name=name, batch=batch)
    _load(source, "a trial question", vlm.yes, [Image.new("RGB", (384, 384), "white")], [_TRIAL])
    return vlm


def _load(source: str, what: str, load: Any, *arguments: Any, **settings: Any) -> Any:
    """Call one of transformers' loaders; its errors have no common base class."""
    try:
        return load(*arguments, **settings)
    except Exception as error:
        said = " ".join(str(error).split())
        if "trust_remote_code" in said:
            said = "needs code of its own: take the model in transformers' layout (…-hf), or put it behind an endpoint"
        raise JudgeError(f"{source}: {what}: {said or type(error).__name__}") from error


def _pictures_only(config: PreTrainedConfig) -> Any:
    """Class of a model's processor, without the part for videos, which needs torchvision and is never used."""
    kind = PROCESSOR_MAPPING[type(config)]

    def get_attributes(_: Any) -> list[str]:
        return [name for name in kind.get_attributes() if name != "video_processor"]

    return type(kind.__name__, (kind,), {"get_attributes": classmethod(get_attributes)})


def _accelerator_or_cpu() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _token_ids(tokenizer: Any, name: str) -> dict[Word, list[int]]:
    """Ids of all tokens that spell yes or no."""
    ids: dict[Word, list[int]] = {"yes": [], "no": []}
    for token, number in tokenizer.get_vocab().items():
        if (word := word_of(tokenizer.convert_tokens_to_string([token]))) is not None:
            ids[word].append(number)
    for word, found in ids.items():
        found.sort()
        if not found:
            raise JudgeError(f"{name}: no token of its vocabulary spells {word}")
    return ids
