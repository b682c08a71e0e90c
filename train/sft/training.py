"""Supervised fine-tuning: maximise the likelihood of a picture's codes given its prompt (paper, section 3.2).

- The loss is the mean over image positions only.
- A share of the prompts is replaced by the unconditional row, which guidance needs. The embedding of the
  pad token, which that row is made of, is trained (transformers would freeze it).
- Unconditional rows have smoothed labels (`code_loss`), which keeps guidance from choosing absurd codes.
- Muon trains the matrices of the decoder's blocks, AdamW all else: the model follows prompts after fewer
  pictures than with AdamW alone (docs/tiny.md).
- The saved weights are a running average.
"""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from model.likelihood import image_logits
from pairs.files import write_atomically
from train.muon import Muon
from train.run import Run
from train.schedule import warmup_cosine
from train.sft.average import Average
from train.sft.batches import Batches
from train.sft.loss import code_loss
from train.sft.recipe import SFTRecipe
from train.weights.parameters import unfreeze_decoder


def train_sft(
    network: JanusForConditionalGeneration, batches: Batches, folder: Path, recipe: SFTRecipe, *, seed: int
) -> None:
    """Train the decoder, resuming from `folder` if it holds a stopped run.

    Writes average weights to `folder`: `base.safetensors` at `base_at`, `final.safetensors` at the end.
    """
    torch.manual_seed(seed)
    network.train()
    trained = unfreeze_decoder(network)
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
