"""Supervised fine-tuning: maximise the likelihood of a picture's codes given its prompt (paper, section 3.2).

- The loss is the mean over image positions only.
- A share of the prompts is replaced by the unconditional row, which guidance needs. The embedding of the
  pad token, which that row is made of, is trained (transformers would freeze it).
- Unconditional rows have smoothed labels (`code_loss`), which keeps guidance from choosing absurd codes.
- Muon trains the matrices of the decoder's blocks, AdamW all else: the model follows prompts after fewer
  pictures than with AdamW alone (docs/tiny.md).
- The saved weights are a running average.
"""

from dataclasses import dataclass, fields
from math import gcd
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from model.likelihood import image_logits
from model.prompt import encode_prompt, special_ids, unconditional_row
from pairs.files import write_atomically
from train.data.scenes import SceneSource
from train.muon import Muon
from train.recipe import SFTRecipe
from train.run import Run
from train.schedule import warmup_cosine


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts and their mask [B, T], image codes [B, tokens], and which rows are unconditional [B]."""

    ids: Tensor
    mask: Tensor
    codes: Tensor
    unconditional: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Batches:
    """Training batches by step number, which alone decides their rows, wordings and padding.

    A batch mixes prompts of all lengths. Sorting them by length would need less padding, but would also
    sort them by category, which costs more in steps than it saves in time (docs/tiny.md).
    """

    def __init__(
        self,
        source: SceneSource,
        codes: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        recipe: SFTRecipe,
        *,
        seed: int,
    ) -> None:
        self._source = source
        self._codes = codes
        self._tokenizer = tokenizer
        self._ids = special_ids(tokenizer)
        self._recipe = recipe
        self._seed = seed

    def __getitem__(self, step: int) -> Batch:
        size = self._recipe.batch_size
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        dropped = torch.rand(size, generator=generator) < self._recipe.drop_prompt
        rows, indices = [], []
        for place in range(size):
            epoch, offset = divmod(step * size + place, len(self._codes))
            index = self._shuffled(epoch, offset)
            row = encode_prompt(self._tokenizer, self._source.caption(index, epoch))
            rows.append(unconditional_row(len(row), self._ids) if dropped[place] else row)
            indices.append(index)
        longest = max(map(len, rows))
        ids = torch.full((size, longest), self._ids.pad)
        mask = torch.zeros(size, longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        return Batch(ids, mask, self._codes[indices].long(), dropped)

    def _shuffled(self, epoch: int, offset: int) -> int:
        """Row number at an offset of an epoch: an affine permutation, which needs no storage."""
        count = len(self._codes)
        stride = 7919 + 2 * epoch
        while gcd(stride, count) != 1:
            stride += 2
        return (offset * stride + epoch * 104_729) % count


def code_loss(logits: Tensor, batch: Batch, *, unconditional_smoothing: float) -> tuple[Tensor, Tensor]:
    """The training objective, and the mean negative log-likelihood of the true codes; both in nats per code.

    Guidance at scale g weighs a code by c^g / u^(g − 1), c and u being its conditional and unconditional
    probability. In the tails both are guesses: a code whose u is guessed far too small wins, however
    improbable by c. Smoothed labels prevent this by keeping u above a floor, ε / V (docs/tiny.md).

    Args:
        logits: [B, tokens, V] float32.
        batch: gives the codes, and which rows are unconditional.
        unconditional_smoothing: ε.
    """
    logprobs = logits.log_softmax(-1)
    surprise = -logprobs.gather(-1, batch.codes[..., None])[..., 0]
    smoothing = unconditional_smoothing * batch.unconditional[:, None].to(surprise.dtype)
    smoothed = (1 - smoothing) * surprise - smoothing * logprobs.mean(-1)
    return smoothed.mean(), surprise.mean()


def decoder_parameters(network: JanusForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The parameters that SFT trains, by name: all but image tokenizer, understanding tower and text head."""
    frozen = ("model.vqmodel.", "model.vision_model.", "model.aligner.", "lm_head.")
    return {name: p for name, p in network.named_parameters() if not name.startswith(frozen)}


class Average:
    """A running average of parameters over about the last tenth of all updates (`torch.optim.swa_utils`)."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._names = list(parameters)
        self._present = nn.ParameterList(parameters.values())
        self._average = AveragedModel(
            self._present, avg_fn=lambda old, new, updates: old.lerp(new, 10 / (updates + 10))
        )

    def update(self) -> None:
        self._average.update_parameters(self._present)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        averages = self._average.module.parameters()
        return {name: value.detach().contiguous() for name, value in zip(self._names, averages, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)


def train_sft(
    network: JanusForConditionalGeneration, batches: Batches, folder: Path, recipe: SFTRecipe, *, seed: int
) -> None:
    """Train the decoder, resuming from `folder` if it holds a stopped run.

    Writes average weights to `folder`: `base.safetensors` at `base_at`, `final.safetensors` at the end.
    """
    torch.manual_seed(seed)
    # padding_idx would freeze the pad embedding, which the unconditional row is made of
    network.model.language_model.embed_tokens.padding_idx = None
    network.train()
    network.requires_grad_(False)
    trained = decoder_parameters(network)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    muon, adamw = _optimizers(trained, recipe)
    average = Average(trained)
    run = Run(folder, recipe.steps)
    base_step = int(recipe.steps * recipe.base_at)
    for step in run.steps({"network": network, "muon": muon, "adamw": adamw, "average": average}):
        pace = warmup_cosine(step, total=recipe.steps, warmup=recipe.warmup, peak=1.0, floor=0.02)
        for optimizer, rate in ((muon, recipe.matrix_learning_rate), (adamw, recipe.learning_rate)):
            for group in optimizer.param_groups:
                group["lr"] = pace * rate
        batch = batches[step].to(network.device)
        objective, loss = code_loss(
            image_logits(network, batch.ids, batch.mask, batch.codes),
            batch,
            unconditional_smoothing=recipe.unconditional_smoothing,
        )
        network.zero_grad()
        torch.autograd.backward(objective)
        norm = nn.utils.clip_grad_norm_(trained.values(), 1.0)
        muon.step()
        adamw.step()
        average.update()
        run.log(step, loss=loss.item(), gradient_norm=norm)
        if step + 1 == base_step:
            _save_tensors(average.tensors, folder / "base.safetensors")
    _save_tensors(average.tensors, folder / "final.safetensors")


def _optimizers(trained: dict[str, nn.Parameter], recipe: SFTRecipe) -> tuple[Muon, torch.optim.AdamW]:
    blocks = {name: p for name, p in trained.items() if p.ndim == 2 and ".layers." in name}
    others = {name: p for name, p in trained.items() if name not in blocks}
    plain = [p for name, p in others.items() if p.ndim == 1 or "embed" in name]
    decayed = [p for name, p in others.items() if p.ndim > 1 and "embed" not in name]
    muon = Muon(blocks.values(), weight_decay=recipe.weight_decay)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    return muon, adamw


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    write_atomically(path, lambda partial: partial.write_bytes(save(tensors)))
