"""A device that mixes with no other, as a GPU does, though its tensors lie in the CPU's memory.

For processes of their own, since PyTorch keeps a device that was added:

    python -m tests.other_device CHECKPOINT FOLDER

trains on it in FOLDER. A forked process cannot: the one that it is forked from may have begun PyTorch's threads for gradients,
one for each device that was there.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.utils.backend_registration as backends
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import model.checkpoints.load as checkpoints
from model.checkpoints.load import load
from model.janus import Janus
from model.params import SamplingParams
from model.vector_math import warm_up_vector_math
from pairs.world import World
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished, Preview
from serve.engine.job import Job
from tests.grpo_runs import Brightness, recipe
from train.data.opening import DataSettings
from train.data.pairs import WorldPairs
from train.grpo.trainer import Trainer
from train.ranks import ALONE
from train.sft.recipe import SFTRecipe
from train.sft.run import train as sft

NAME = "other"
# operations that may have tensors of both: copies, and numbers of places that index a tensor of the other device
_MIXING = ("aten::copy_", "aten::_copy_from")
_INDEXING = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")


class OtherTensor(Tensor):
    """A tensor of the device; `raw` has its numbers.

    float64: whether the device has it; Apple's has not.
    """

    float64: ClassVar[bool] = True
    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, raw: Tensor) -> "OtherTensor":
        assert cls.float64 or raw.dtype != torch.float64, "this device has no float64"
        made = Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=torch.device(NAME, 0)
        )  # fmt: skip
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _compute(operation, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.raw.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.raw.untyped_storage()

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        self.raw = _raw(other)

    def __deepcopy__(self, memo: object) -> "OtherTensor":
        return OtherTensor(self.raw.clone()).requires_grad_(self.requires_grad)  # type: ignore[return-value]


def _raw(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.raw if isinstance(value, OtherTensor) else value


@torch.inference_mode(False)  # wrappers and their numbers are usual tensors, which all modes may change
def _compute(operation: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Compute an operation on the CPU.

    Raises:
        RuntimeError: it has tensors of both devices, other than numbers.
    """
    name = operation._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    own = {id(tensor.raw): tensor for tensor in tensors if isinstance(tensor, OtherTensor)}
    mixes = name in _MIXING or (name in _INDEXING and isinstance(args[0], OtherTensor))
    if own and not mixes and any(tensor.dim() for tensor in tensors if not isinstance(tensor, OtherTensor)):
        raise RuntimeError(f"{operation} has tensors of two devices")
    if name == "aten::_copy_from":  # (from, to): what `copy_` calls
        _raw(args[1]).copy_(_raw(args[0]))
        return args[1]
    device = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
    here = bool(own) if device is None else device.type == NAME
    if "pin_memory" in kwargs:
        kwargs["pin_memory"] = None
    result = operation(*tree_map(_raw, args), **tree_map(_raw, kwargs))

    def wrapped(one: Any) -> Any:
        if not here or not isinstance(one, Tensor):
            return one
        return own[id(one)] if id(one) in own else OtherTensor(one)

    return tree_map(wrapped, result)


class _Adapted(TorchFunctionMode):
    """`torch.tensor` makes tensors of the device by way of the CPU."""

    def __torch_function__(
        self, function: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if function is torch.tensor and torch.device(given.get("device") or "cpu").type == NAME:
            return torch.tensor(*args, **given | {"device": "cpu"}).to(NAME)
        return function(*args, **given)


_kept: list[object] = []  # what is registered lasts as long as these


def add_device() -> None:
    """Add the device to PyTorch, and let checkpoints be loaded to it.

    Raises:
        AttributeError: this PyTorch lets no Python code add a device.
    """

    class Module(backends._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

        def get_rng_state(self, device: object = 0) -> Tensor:
            return torch.random.get_rng_state()

        def set_rng_state(self, state: Tensor, device: object = 0) -> None: ...

    backends._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    library = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
    library.fallback(_compute, "PrivateUse1")  # type: ignore[no-untyped-call]
    adapted = _Adapted()
    adapted.__enter__()  # type: ignore[no-untyped-call]
    _kept.extend((library, adapted))
    warm_up_vector_math()
    checkpoints.choose_device = torch.device  # type: ignore[attr-defined]


def drawn(janus: Janus) -> dict[str, Any]:
    """Codes and previews of images with filters, negative prompts, and greedy ones, by PyTorch's operations."""
    filters, greedy = SamplingParams(3.0, 1.0, top_k=20, top_p=0.9), SamplingParams(1.0, 0.0)
    jobs = [
        Job(janus.encode("three red circles"), None, (1, 2), filters),
        Job(janus.encode("three red circles"), None, (4,), greedy),
        Job(janus.encode("a blue star"), janus.encode("a square"), (3,), filters, frozenset({2, 4})),
    ]
    engine = Engine(janus, slots=4, native=False)
    events = [*draw(engine, jobs[:2]), *draw(engine, jobs[2:])]  # previews are certain if nothing else is drawn
    codes = {
        f"{jobs.index(job)} {event.index}": list(event.codes) for job, event in events if isinstance(event, Finished)
    }
    return {"codes": codes, "previews": sum(isinstance(event, Preview) for _, event in events)}


def trained(checkpoint: Path, device: str, out: Path) -> None:
    """Train with GRPO, by all that reads codes and logits, with adapters, and with supervised fine-tuning."""
    source = WorldPairs(World(), seed=0, size=64)
    rollout = {"pairs": 2, "samples": 2, "guidance_scale": 2.0, "top_k": 20}
    update = {"learning_rate": [{"at": 0, "value": 1e-4}], "micro_batch": 4, "updates_per_rollout": 2}
    credit = {"method": "attention", "shuffled": True}
    output = {"save_every": 1, "keep": 2, "grid_every": 1}
    runs = {
        "grpo": recipe(steps=2, rollout=rollout, update=update, credit=credit, output=output),
        "adapters": recipe(steps=1, weights={"lora": {"rank": 2}}),
    }
    for name, chosen in runs.items():
        Trainer(load(checkpoint, device=device), source, Brightness(), chosen, out / name, slots=4).run()
    settings = {
        "steps": 2, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3, "matrix_learning_rate": 1e-3, "warmup": 1,
        "weight_decay": 0.1, "drop_prompt": 0.3, "average": True, "save_every": 2,
    }  # fmt: skip
    fine_tuning = SFTRecipe.model_validate(settings)
    sft(load(checkpoint, device=device), fine_tuning, out / "sft", data=DataSettings("world"), ranks=ALONE)


def draw_on_it(checkpoint: Path, file: Path) -> None:
    """Write what `drawn` returns for the device to a file."""
    torch.set_num_threads(1)
    add_device()
    file.write_text(json.dumps(drawn(load(checkpoint, device=NAME))))


def main() -> None:
    """Train on the device, which then has no float64."""
    torch.set_num_threads(1)
    add_device()
    OtherTensor.float64 = False
    trained(Path(sys.argv[1]), NAME, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
