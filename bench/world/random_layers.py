"""A decoder of a published geometry at its full depth, in little memory: layers are made when they are read."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from transformers import LlamaConfig

from bench.speed.geometry import GEOMETRIES, random_janus
from model.decoder import Decoder
from model.decoder_weights import LayerWeights, Matrix
from model.quantization import Quantization
from model.quantized_matrix import QuantizedMatrix


class RandomLayers(Sequence[LayerWeights]):
    """Layers with random float32 weights, those of a number always the same, made anew each time that one is read.

    Args:
        config: of the decoder.
        depth: number of layers.
        quantization: rounds the matrices.
    """

    def __init__(self, config: LlamaConfig, depth: int, quantization: Quantization | None = None) -> None:
        self._config, self._depth, self._quantization = config, depth, quantization

    def __len__(self) -> int:
        return self._depth

    @overload
    def __getitem__(self, index: int) -> LayerWeights: ...

    @overload
    def __getitem__(self, index: slice) -> list[LayerWeights]: ...

    def __getitem__(self, index: int | slice) -> LayerWeights | list[LayerWeights]:
        chosen = range(self._depth)[index]
        return self._layer(chosen) if isinstance(chosen, int) else [self._layer(number) for number in chosen]

    def _layer(self, number: int) -> LayerWeights:
        source, config = torch.Generator().manual_seed(number), self._config
        hidden, head_dim = config.hidden_size, config.head_dim
        heads = head_dim * config.num_attention_heads

        def matrix(outputs: int, inputs: int) -> Matrix:
            floats = torch.empty(outputs, inputs).normal_(std=config.initializer_range, generator=source)
            return floats if self._quantization is None else QuantizedMatrix.of(floats, self._quantization)

        return LayerWeights(
            attention_norm=torch.ones(hidden),
            qkv=matrix(heads + 2 * head_dim * config.num_key_value_heads, hidden),
            out=matrix(hidden, heads),
            mlp_norm=torch.ones(hidden),
            gate_up=matrix(2 * config.intermediate_size, hidden),
            down=matrix(hidden, config.intermediate_size),
        )


def deep_decoder(geometry: str, quantization: Quantization | None = None, *, layers: int | None = None) -> Decoder:
    """Decoder of a geometry with random float32 weights on a CPU; it holds one layer at a time.

    Args:
        geometry: name.
        quantization: rounds the matrices, and with fp8 and int8 keys and values.
        layers: as many as the geometry has if not given.

    Raises:
        ValueError: no such geometry, or no layers.
    """
    if layers is not None and layers < 1:
        raise ValueError(f"layers must be at least 1, not {layers}")
    janus = random_janus(geometry, torch.device("cpu"), torch.float32, layers=1)
    decoder = Decoder(janus, native=False, quantization=quantization, release=True)
    depth = layers or GEOMETRIES[geometry].layers
    made = RandomLayers(janus.network.config.text_config, depth, quantization)
    decoder.weights = replace(decoder.weights, layers=made)
    return decoder
