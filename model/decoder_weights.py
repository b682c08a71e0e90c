"""The decoder's weights for serving: matrices with the same input are fused, and packed for the C functions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from model.errors import CheckpointError
from model.quantization import Quantization
from model.quantized_matrix import QuantizedMatrix

PANEL = 16  # outputs
FILL = 64  # integers of an output are filled up with zeros to a multiple of so many inputs


@dataclass(frozen=True)
class PackedMatrix:
    """Matrix in the layout that the C functions read (`model/cpu/matrix.h`): panels of 16 outputs.

    In a panel, the weights of one input lie side by side. The last panel of each part is filled up with zeros.

    A weight w is stored as a float32 or, as an 8-bit integer, as round(127 w / m), where m is the largest magnitude of
    its output. Integers take a quarter of the memory; an output's two by two, or four by four, inputs lie side by side.
    docs/performance.md has their effect on pictures.

    values: float32 [parts, panels, inputs, 16] or int8 [parts, panels, groups of inputs, 16, inputs of a group].
    scales: float32 [parts, 16 · panels], m / 127 of each output; None for floats.
    outputs: of each part.
    inputs: of the matrix.
    """

    values: Tensor
    scales: Tensor | None
    outputs: int
    inputs: int

    @classmethod
    def of(cls, weight: Tensor, *, parts: int = 1, int8: bool = False, group: int = 2) -> "PackedMatrix":
        """Pack a matrix of floats [outputs, inputs]; integers are rounded to nearest.

        Args:
            weight: the matrix.
            parts: its outputs are divided into as many equal parts, which begin with a new panel each.
            int8: whether to store integers.
            group: integers of an output that lie side by side, 2 or 4: the C functions say what they read.
        """
        outputs, inputs = len(weight) // parts, weight.shape[1]
        split, scales = weight.float().view(parts, outputs, inputs), None
        if int8:
            scales = split.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            split = (split / scales[..., None]).round().to(torch.int8)
            scales = F.pad(scales, (0, -outputs % PANEL))
            split = F.pad(split, (0, -inputs % FILL))
        filled = F.pad(split, (0, 0, 0, -outputs % PANEL))
        groups = (-1, group) if int8 else (split.shape[-1],)
        values = filled.view(parts, len(filled[0]) // PANEL, PANEL, *groups).transpose(2, 3)
        return cls(values.contiguous(), scales, outputs, inputs)

    @property
    def shape(self) -> torch.Size:
        """[outputs of all parts, inputs]."""
        return torch.Size([len(self.values) * self.outputs, self.inputs])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (self.scales.nbytes if self.scales is not None else 0)

    def floats(self) -> Tensor:
        """The matrix that these values stand for, float32 [outputs, inputs]."""
        rows = self.values.float().transpose(2, 3).flatten(3).flatten(1, 2)
        if self.scales is not None:
            rows = rows * self.scales[..., None]
        return rows[:, : self.outputs, : self.inputs].flatten(0, 1)

    def copy_(self, other: "PackedMatrix") -> None:
        self.values.copy_(other.values)
        if self.scales is not None and other.scales is not None:
            self.scales.copy_(other.scales)


Matrix = Tensor | PackedMatrix | QuantizedMatrix


def linear(x: Tensor, matrix: Matrix) -> Tensor:
    """Multiply x [..., inputs] by the transposed matrix: [..., outputs]."""
    if isinstance(matrix, QuantizedMatrix):
        return F.linear(x, matrix.floats(x.dtype))
    return F.linear(x, matrix.floats() if isinstance(matrix, PackedMatrix) else matrix)


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one block; matrices with the same input are fused."""

    attention_norm: Tensor  # [hidden]
    qkv: Matrix  # [(heads + 2 · kv_heads) · head_dim, hidden]
    out: Matrix  # [hidden, heads · head_dim]
    mlp_norm: Tensor  # [hidden]
    gate_up: Matrix  # [2 · intermediate, hidden]
    down: Matrix  # [hidden, intermediate]


@dataclass(frozen=True)
class DecoderWeights:
    """All weights that a step reads; `code_embedding` is the decoder's input for each image code."""

    layers: Sequence[LayerWeights]
    norm: Tensor  # [hidden]
    text_embedding: Tensor  # [vocabulary, hidden]
    code_embedding: Tensor  # [V, hidden]
    head_in: Matrix
    head_in_bias: Tensor
    head_out: Matrix
    head_out_bias: Tensor

    @property
    def matrices(self) -> list[Matrix]:
        """All matrices that a step reads, in the order of `fuse_matrices`."""
        parts = [part for layer in self.layers for part in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        return [*parts, self.head_in, self.head_out]

    @property
    def copies(self) -> list[PackedMatrix | QuantizedMatrix]:
        """All matrices that are copies of the network's, in the order of `matrices`."""
        return [matrix for matrix in self.matrices if not isinstance(matrix, Tensor)]


def _fused(network: JanusForConditionalGeneration) -> Iterator[tuple[nn.Linear, ...]]:
    """Linear layers by the matrix that they are fused to, in the order of `DecoderWeights`."""
    for block in network.model.language_model.layers:
        attention, mlp = block.self_attn, block.mlp
        yield attention.q_proj, attention.k_proj, attention.v_proj
        yield (attention.o_proj,)
        yield mlp.gate_proj, mlp.up_proj
        yield (mlp.down_proj,)
    head = network.model.generation_head
    yield (head.proj_out,)
    yield (head.vision_head,)


@torch.no_grad()
def pack_matrices(
    network: JanusForConditionalGeneration, *, int8: bool, group: int, release: bool = False
) -> Iterator[PackedMatrix]:
    """Pack the matrices of a network, one after the other; `int8` and `group` as for `PackedMatrix.of`.

    With `release`, each is freed as soon as it is packed; the network alone can then no longer compute.
    """
    for modules in _fused(network):
        # C finds where "up" begins by the number of panels, so it begins with a new one
        parts = 2 if len(modules) == 2 else 1
        joined = torch.cat([module.weight.detach() for module in modules])
        packed = PackedMatrix.of(joined, parts=parts, int8=int8, group=group)
        if release:
            _release(modules)
        yield packed


@torch.no_grad()
def quantize_matrices(
    network: JanusForConditionalGeneration, quantization: Quantization, device: torch.device, *, release: bool = False
) -> Iterator[QuantizedMatrix]:
    """Round the matrices of a network, one after the other on a device; `release` as for `pack_matrices`."""
    for modules in _fused(network):
        joined = torch.cat([module.weight.detach().to(device) for module in modules])
        if release:
            _release(modules)
        yield QuantizedMatrix.of(joined, quantization)


def matrix_shapes(network: JanusForConditionalGeneration) -> list[tuple[int, int]]:
    """Outputs and inputs of all matrices that a decoder may round."""
    return [(sum(module.out_features for module in modules), modules[0].in_features) for modules in _fused(network)]


def _release(modules: Iterable[nn.Linear]) -> None:
    for module in modules:
        module.weight = nn.Parameter(module.weight.to("meta"), requires_grad=False)


@torch.no_grad()
def move(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, without its matrices that were freed."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type != "meta":
            tensor.data = tensor.data.to(device)


@torch.no_grad()
def fuse_matrices(network: JanusForConditionalGeneration) -> Iterator[Tensor]:
    """Fuse the matrices of a network; its parameters share memory with the result, so that nothing is held twice."""
    for modules in _fused(network):
        yield _joined(*modules) if len(modules) > 1 else modules[0].weight.detach()


def decoder_weights(network: JanusForConditionalGeneration, matrices: Iterator[Matrix]) -> DecoderWeights:
    """A network's weights, with matrices of `pack_matrices` or `fuse_matrices`."""
    model, head = network.model, network.model.generation_head
    layers = tuple(
        LayerWeights(
            attention_norm=block.input_layernorm.weight.detach(),
            qkv=next(matrices),
            out=next(matrices),
            mlp_norm=block.post_attention_layernorm.weight.detach(),
            gate_up=next(matrices),
            down=next(matrices),
        )
        for block in model.language_model.layers
    )
    return DecoderWeights(
        layers=layers,
        norm=model.language_model.norm.weight.detach(),
        text_embedding=model.language_model.embed_tokens.weight.detach(),
        code_embedding=code_embeddings(network),
        head_in=next(matrices),
        head_in_bias=head.proj_out.bias.detach(),
        head_out=next(matrices),
        head_out_bias=head.vision_head.bias.detach(),
    )


def check_has_matrices(network: JanusForConditionalGeneration) -> None:
    """Check that a network still has its float matrices.

    Raises:
        CheckpointError: they were freed by `pack_matrices`.
    """
    if any(module.weight.device.type == "meta" for modules in _fused(network) for module in modules):
        raise CheckpointError("this model's matrices were freed when an engine packed them: load it again")


@torch.no_grad()
def code_embeddings(network: JanusForConditionalGeneration) -> Tensor:
    """The decoder's input for each image code: [V, hidden]."""
    device = network.model.generation_embeddings.weight.device
    inputs: Tensor = network.prepare_embeddings_for_image_generation(
        torch.arange(network.config.vq_config.num_embeddings, device=device)
    )
    return inputs


def _joined(*modules: nn.Linear) -> Tensor:
    """Fuse the matrices of layers with the same input; each layer's weight becomes a view of the result."""
    weights = [module.weight.detach() for module in modules]
    rows, width = [len(weight) for weight in weights], weights[0].shape[1]
    places = [(weight.untyped_storage().data_ptr(), weight.storage_offset()) for weight in weights]
    storage, start = places[0]
    if places == [(storage, start + sum(rows[:i]) * width) for i in range(len(rows))]:
        return weights[0].as_strided((sum(rows), width), (width, 1))  # already fused, by another decoder
    joined = torch.cat(weights)
    for module, part in zip(modules, torch.split(joined, rows), strict=True):
        module.weight.data = part
    return joined
