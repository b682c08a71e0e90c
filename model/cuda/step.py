"""One decode step in matrix products and Triton kernels: ten launches a layer, whose inputs all lie on the device."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from model.cuda.attention import attend_filled
from model.cuda.fastest import Products
from model.cuda.layers import add_and_normalise, gate, rotate_and_write
from model.decoder_weights import DecoderWeights, Matrix
from model.kv_cache import KVCache


class KernelStep:
    """Step of one model.

    Args:
        weights: of the model.
        rotations: float32 [2, positions, head_dim], as of `model.decoder.rotate`.
        head: from normalised hidden states [T, hidden] to logits [T, V], with a function that multiplies by a matrix.
        heads: number of query heads.
        epsilon: of the norms.

    Attributes:
        products: multiply by the matrices.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        rotations: Tensor,
        head: Callable[[Tensor, Callable[[Tensor, Matrix], Tensor]], Tensor],
        *,
        heads: int,
        epsilon: float,
    ) -> None:
        self._weights, self._rotations, self._head = weights, rotations, head
        self._heads, self._epsilon = heads, epsilon
        self.products = Products(weights.matrices, weights.norm.device)

    def __call__(self, codes: Tensor, index: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Feed codes to rows of the cache.

        Args:
            codes: int64 [T].
            index: int64 [T], row of each.
            positions: int64 [T], its position there.
            cache: gains the codes, in place.

        Returns:
            Logits of the next codes, float32 [T, V].
        """
        weights, added = self._weights, None
        x = F.embedding(codes, weights.code_embedding)
        for number, layer in enumerate(weights.layers):
            keys, values = cache.keys[number], cache.values[number]
            scales = None if cache.scales is None else cache.scales[:, number]
            joined = self.products(add_and_normalise(x, added, layer.attention_norm, self._epsilon), layer.qkv)
            queries = rotate_and_write(
                joined, self._rotations, index, positions, keys, values, heads=self._heads, scales=scales
            )
            added = self.products(attend_filled(queries, keys, values, index, positions, scales=scales), layer.out)
            gates = self.products(add_and_normalise(x, added, layer.mlp_norm, self._epsilon), layer.gate_up)
            added = self.products(gate(gates), layer.down)
        return self._head(add_and_normalise(x, added, weights.norm, self._epsilon), self.products)
