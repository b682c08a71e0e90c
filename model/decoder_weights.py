"""The decoder's weights for serving: matrices with the same input are fused, in floats or 8-bit integers."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from model.errors import CheckpointError


@dataclass(frozen=True)
class Int8Matrix:
    """Matrix of 8-bit integers [outputs, inputs], with one float32 scale per output [outputs].

    A weight w is stored as round(127 w / m), where m is the largest magnitude of its output. Compared with float32,
    memory and the bytes that a step reads are a quarter. docs/performance.md has the effect on pictures.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "Int8Matrix":
        """Quantise a matrix of floats, rounding to nearest."""
        scales = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        return cls((weight.float() / scales[:, None]).round().to(torch.int8), scales)

    @property
    def shape(self) -> torch.Size:
        """[outputs, inputs]."""
        return self.values.shape

    def floats(self) -> Tensor:
        """Dequantised matrix, float32."""
        return self.values.float() * self.scales[:, None]

    def copy_(self, other: "Int8Matrix") -> None:
        self.values.copy_(other.values)
        self.scales.copy_(other.scales)


Matrix = Tensor | Int8Matrix


def linear(x: Tensor, matrix: Matrix) -> Tensor:
    """Multiply x [..., inputs] by the transposed matrix: [..., outputs]."""
    return F.linear(x, matrix.floats() if isinstance(matrix, Int8Matrix) else matrix)


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

    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [hidden]
    text_embedding: Tensor  # [vocabulary, hidden]
    code_embedding: Tensor  # [V, hidden]
    head_in: Matrix
    head_in_bias: Tensor
    head_out: Matrix
    head_out_bias: Tensor

    @property
    def int8(self) -> list[Int8Matrix]:
        """All int8 matrices, in a fixed order."""
        parts = [part for layer in self.layers for part in vars(layer).values()] + [self.head_in, self.head_out]
        return [part for part in parts if isinstance(part, Int8Matrix)]


@torch.no_grad()
def fuse_weights(network: JanusForConditionalGeneration, *, int8: bool = False) -> DecoderWeights:
    """Fuse the weights of a network; its parameters share memory with the result, so that nothing is held twice.

    With `int8` the result has quantised copies, and the network stays as it is (see `drop_matrices`).
    """
    model, head = network.model, network.model.generation_head

    def matrix(*modules: nn.Linear) -> Matrix:
        if int8:
            return Int8Matrix.of(torch.cat([module.weight.detach() for module in modules]))
        return _joined(*modules) if len(modules) > 1 else modules[0].weight.detach()

    layers = []
    for block in model.language_model.layers:
        attention, mlp = block.self_attn, block.mlp
        layers.append(
            LayerWeights(
                attention_norm=block.input_layernorm.weight.detach(),
                qkv=matrix(attention.q_proj, attention.k_proj, attention.v_proj),
                out=matrix(attention.o_proj),
                mlp_norm=block.post_attention_layernorm.weight.detach(),
                gate_up=matrix(mlp.gate_proj, mlp.up_proj),
                down=matrix(mlp.down_proj),
            )
        )
    return DecoderWeights(
        layers=tuple(layers),
        norm=model.language_model.norm.weight.detach(),
        text_embedding=model.language_model.embed_tokens.weight.detach(),
        code_embedding=code_embeddings(network),
        head_in=matrix(head.proj_out),
        head_in_bias=head.proj_out.bias.detach(),
        head_out=matrix(head.vision_head),
        head_out_bias=head.vision_head.bias.detach(),
    )


def drop_matrices(network: JanusForConditionalGeneration) -> None:
    """Free the float matrices that a decoder holds as int8; the network alone can no longer compute."""
    for module in _linears(network):
        module.weight = nn.Parameter(module.weight.to("meta"), requires_grad=False)


def check_has_matrices(network: JanusForConditionalGeneration) -> None:
    """Check that a network still has its float matrices.

    Raises:
        CheckpointError: they were freed by `drop_matrices`.
    """
    if any(module.weight.device.type == "meta" for module in _linears(network)):
        raise CheckpointError("this model's weights are kept as int8 only: load it again without int8")


def _linears(network: JanusForConditionalGeneration) -> Iterator[nn.Linear]:
    """Linear layers whose matrices `fuse_weights` reads."""
    for part in (network.model.language_model.layers, network.model.generation_head):
        yield from (module for module in part.modules() if isinstance(module, nn.Linear))


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
