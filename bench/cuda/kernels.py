"""Every operation of a step by itself: all layers one after the other, so that weights come from memory, not from caches."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from bench.cuda.result import Result
from bench.cuda.timing import captured, time_calls
from bench.cuda.workbench import Workbench
from model.cuda.attention import attend_filled
from model.cuda.layers import add_and_normalise, gate, rotate_and_write
from model.cuda.sampling import draw
from model.decoder_weights import linear


def measure_kernels(bench: Workbench) -> Iterator[Result]:
    """Time the operations at several numbers of images, against the least that each must read and write, and compute."""
    weights, config = bench.decoder.weights, bench.janus.network.config.text_config
    sampler, cache = bench.sampler(max(bench.images)), bench.cache(max(bench.images))
    layers, size = weights.layers, bench.janus.dtype.itemsize
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, cache.keys.shape[-1]
    for images in bench.images:
        rows, batch = 2 * images, bench.half_drawn(sampler, images)
        index, positions = batch.rows.index[:rows], batch.rows.positions[:rows]
        hidden = torch.ones(rows, config.hidden_size, dtype=bench.janus.dtype, device=bench.device)
        wide = torch.ones(rows, config.intermediate_size, dtype=hidden.dtype, device=bench.device)
        attended = torch.ones(rows, heads * head_dim, dtype=hidden.dtype, device=bench.device)
        queries = attended.view(rows, heads, head_dim)
        joined, gates = linear(hidden, layers[0].qkv), linear(hidden, layers[0].gate_up)
        logits = torch.randn(rows, bench.janus.codebook_size, device=bench.device)

        def product(name: str, x: torch.Tensor) -> None:
            for layer in layers:
                F.linear(x, getattr(layer, name))

        def attend(queries: torch.Tensor, index: torch.Tensor, positions: torch.Tensor) -> None:
            for keys, values in zip(cache.keys, cache.values, strict=True):
                attend_filled(queries, keys, values, index, positions)

        def rotate(joined: torch.Tensor, index: torch.Tensor, positions: torch.Tensor) -> None:
            for keys, values in zip(cache.keys, cache.values, strict=True):
                rotate_and_write(joined, bench.decoder.rotations, index, positions, keys, values, heads=heads)

        def normalise(hidden: torch.Tensor) -> None:
            for layer in layers:
                add_and_normalise(hidden, hidden, layer.attention_norm, 1e-6)
                add_and_normalise(hidden, hidden, layer.mlp_norm, 1e-6)

        def gate_all(gates: torch.Tensor) -> None:
            for _ in layers:
                gate(gates)

        def head(hidden: torch.Tensor) -> None:
            F.linear(F.linear(hidden, weights.head_in), weights.head_out)  # type: ignore[arg-type]

        timed: list[tuple[str, Callable[[], object], int, int]] = []  # name, call, bytes, operations
        for name, x in (("qkv", hidden), ("out", attended), ("gate_up", hidden), ("down", wide)):
            numbers = sum(getattr(layer, name).shape.numel() for layer in layers)
            moved = numbers * size + len(layers) * rows * size * sum(getattr(layers[0], name).shape)
            timed.append((f"{name} product", partial(product, name, x), moved, 2 * rows * numbers))
        numbers = weights.head_in.shape.numel() + weights.head_out.shape.numel()
        timed += [
            ("head products", partial(head, hidden), numbers * size, 2 * rows * numbers),
            ("attention", partial(attend, queries, index, positions), bench.row_bytes(rows), 0),
            (
                "rotation",
                partial(rotate, joined, index, positions),
                len(layers) * 2 * rows * (heads + 2 * kv_heads) * head_dim * size,
                0,
            ),
            ("norms", partial(normalise, hidden), len(layers) * 2 * 4 * hidden.nbytes, 0),
            ("gates", partial(gate_all, gates), len(layers) * 3 * wide.nbytes, 0),
            ("draw", partial(draw, logits, batch.inputs, sampler.state), logits.nbytes, 0),
        ]
        for name, call, moved, flops in timed:
            seconds = time_calls(captured(call, device=bench.device), device=bench.device, times=bench.times)
            yield Result("kernels", f"{name}, {images} images", seconds.device, bytes=moved, flops=flops)
            if name == "draw":  # each draw is of the next place
                bench.half_drawn(sampler, images)
