"""A loaded Janus: transformers' model, its tokenizer and its default sampling settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from model.errors import PromptError
from model.params import SamplingParams
from model.prompt import MAX_PROMPT_TOKENS, SpecialIds, encode_prompt


@dataclass(frozen=True)
class Janus:
    """A model that draws pictures from prompts, with its tokenizer.

    `ids` comes from the tokenizer. For a checkpoint without one it comes from the configuration, and prompts must
    be token ids. `reward_judge` identifies the judge whose scores were its reward in training, if there was one.
    """

    name: str
    network: JanusForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase | None
    ids: SpecialIds
    sampling: SamplingParams = field(default_factory=SamplingParams)
    reward_judge: Mapping[str, str | None] | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.network.parameters()).dtype
        return dtype

    @cached_property  # transformers' configurations are slow to read, and every step reads this
    def grid(self) -> int:
        """Codes along one side of a picture."""
        side: int = self.network.config.vq_config.num_patches
        return side

    @cached_property
    def image_tokens(self) -> int:
        """Number of codes of one picture."""
        return self.grid**2

    @cached_property
    def codebook_size(self) -> int:
        """V, the number of different codes."""
        size: int = self.network.config.vq_config.num_embeddings
        return size

    @property
    def image_size(self) -> int:
        """Pixels along one side of a picture."""
        return self.grid * int(2 ** (len(self.network.config.vq_config.channel_multiplier) - 1))

    @property
    def max_prompt_tokens(self) -> int:
        """Most tokens of a prompt, frame included: `MAX_PROMPT_TOKENS`, or fewer to leave positions for a picture."""
        positions: int = self.network.config.text_config.max_position_embeddings
        return min(MAX_PROMPT_TOKENS, positions - self.image_tokens)

    def encode(self, prompt: str | list[int], *, name: str = "prompt") -> list[int]:
        """Token ids of a prompt with its frame; a list of ids is checked and returned unchanged.

        Raises:
            PromptError: as in `model.prompt.encode_prompt`; or the list is empty, too long or has ids outside the
                vocabulary; or the prompt is text and there is no tokenizer.
        """
        if not isinstance(prompt, str):
            vocabulary = self.network.config.text_config.vocab_size
            if not 0 < len(prompt) <= self.max_prompt_tokens:
                raise PromptError(f"{name} has {len(prompt)} token ids; it must have 1 to {self.max_prompt_tokens}")
            if not all(0 <= number < vocabulary for number in prompt):
                raise PromptError(f"{name} has token ids outside 0 … {vocabulary - 1}")
            return prompt
        if self.tokenizer is None:
            raise PromptError(f"{name} is text, but {self.name} has no tokenizer; name one with --tokenizer")
        return encode_prompt(self.tokenizer.backend_tokenizer, prompt, name=name, limit=self.max_prompt_tokens)

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Encode pictures as the language model's input (understanding): [N, 3, H, W] in [−1, 1] → [N, T, hidden]."""
        features: Tensor = self.network.model.get_image_features(pixels.to(self.device, self.dtype)).pooler_output
        return features
