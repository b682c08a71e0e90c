"""The decoder of a tiny model: supervised fine-tuning from its first weights."""

from pathlib import Path

from safetensors.torch import save
from torch import Tensor
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from model.janus import Janus
from model.prompt import special_ids
from pairs.files import write_atomically
from train.ranks import ALONE
from train.sft.batches import Batches
from train.sft.recipe import SFTRecipe
from train.sft.rows import Rows
from train.sft.training import SFT
from train.stage import Stage
from train.weights.shared import SharedWeights


def train_decoder(
    network: JanusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    rows: Rows,
    folder: Path,
    recipe: SFTRecipe,
    *,
    base_at: float,
) -> None:
    """Train the decoder, resuming from `folder` if it holds a stopped run.

    Writes average weights to `folder`: `base.safetensors` after a share of `base_at` of the steps, `final.safetensors`
    at the end.
    """
    network.train()
    janus = Janus("tiny", network, tokenizer, special_ids(tokenizer.backend_tokenizer))
    sft = SFT(SharedWeights(janus, ALONE, recipe.weights), Batches(rows, janus, recipe), recipe)
    stage = Stage(folder, recipe.steps)
    for step in stage.steps({"sft": sft}):
        stage.log(step, **sft.step(step))
        if step + 1 == int(recipe.steps * base_at):
            _save_tensors(sft.tensors, folder / "base.safetensors")
    _save_tensors(sft.tensors, folder / "final.safetensors")


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda partial: partial.write_bytes(save(contiguous)))
