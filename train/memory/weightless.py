"""Models and processes without memory: tensors that have a shape and a dtype, and nothing else."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import JanusForConditionalGeneration

from model.checkpoints.config import read_config
from model.janus import Janus
from model.prompt import SpecialIds
from train.ranks import ALONE, Ranks
from train.weights.opening import open_weights
from train.weights.recipe import WeightsRecipe
from train.weights.weights import Weights


class _Mode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Keeps its identity when a tensor is copied: only tensors of the same mode can be computed with together."""

    def __deepcopy__(self, memo: dict[int, object]) -> "_Mode":
        return self


@dataclass(frozen=True, kw_only=True)
class WeightlessJanus(Janus):
    """A model of PyTorch's fake tensors, which have a shape, a dtype and a device (a CPU), but no values.

    mode: to be entered for every computation with the model.
    prompt_tokens: length of every encoded prompt, whatever its text.
    """

    mode: FakeTensorMode
    prompt_tokens: int

    @classmethod
    def of(cls, name: str, folder: Path, dtype: torch.dtype, *, prompt_tokens: int | None = None) -> "WeightlessJanus":
        """Build from the config.json of a folder; `prompt_tokens` defaults to the model's limit.

        Raises:
            CheckpointError: there is no configuration, or it is invalid.
            ValueError: `prompt_tokens` is out of range.
        """
        config, mode = read_config(folder), _Mode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            network = JanusForConditionalGeneration(config).eval().requires_grad_(False).to(dtype)
        with mode:
            network.to_empty(device="cpu")
        limit = Janus(name, network, None, _IDS).max_prompt_tokens
        tokens = limit if prompt_tokens is None else prompt_tokens
        if not 2 <= tokens <= limit:
            raise ValueError(f"--prompt-tokens must be 2 to {limit}, not {tokens}")
        return cls(name, network, None, _IDS, mode=mode, prompt_tokens=tokens)

    def encode(self, prompt: str | list[int], *, name: str = "prompt") -> list[int]:
        return [_IDS.bos] * self.prompt_tokens


_IDS = SpecialIds(bos=1, pad=0, begin_of_image=2)  # values of fake tensors are not read


def open_weightless(janus: WeightlessJanus, ranks: Ranks, recipe: WeightsRecipe) -> Weights:
    """The weights of a run, without memory. DDP's are those of a single process.

    Raises:
        TrainingError: as `open_weights`.
    """
    # peft moves new adapters to the device of what they adapt, which fake tensors do not allow, but skips "meta"
    with torch.device("meta") if recipe.lora else nullcontext():
        weights = open_weights(janus, ranks if ranks.kind == "fsdp" else ALONE, recipe)
    if recipe.lora:
        with janus.mode:
            for module in weights.network.modules():
                if isinstance(module, LoraLayer):
                    module.lora_A.to_empty(device="cpu")
                    module.lora_B.to_empty(device="cpu")
        trained = {name: p for name, p in weights.network.named_parameters() if p.requires_grad}
        assert trained.keys() == weights.parameters.keys()
        weights.parameters.update(trained)
    return weights


@contextmanager
def without_processes(ranks: Ranks) -> Iterator[None]:
    """Context with a process group of the run's size that sends nothing, for FSDP; warnings of fake tensors are off."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        if ranks.kind != "fsdp":
            yield
            return
        dist.init_process_group("fake", rank=ranks.rank, world_size=ranks.count, store=FakeStore())
        try:
            yield
        finally:
            dist.destroy_process_group()


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of the storages of tensors by identity, so that shared ones count once; of a DTensor, this process's part."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in own)}
