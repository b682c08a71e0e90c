"""Steps that decode and draw, as CUDA graphs: one launch instead of hundreds."""

import torch

from model.cuda.batch import KernelBatch
from model.cuda.inputs import StepInputs
from model.cuda.sampling import draw
from model.cuda.step import KernelStep
from model.kv_cache import KVCache
from model.sampler.sampler import Sampler


class StepGraphs:
    """One graph for each size of the sampler's inputs. Where there is no GPU, the same is done launch by launch.

    Args:
        step: of the decoder.
        sampler: whose images are drawn.
        cache: of the decoder; its last row is spare.
    """

    def __init__(self, step: KernelStep, sampler: Sampler, cache: KVCache) -> None:
        self._step, self._cache, self._state = step, cache, sampler.state
        device = cache.keys.device
        self._captured: dict[int, torch.cuda.CUDAGraph] = {}
        if device.type != "cuda":
            return
        # A stream and a memory pool of their own, for as long as the graphs live: PyTorch frees the workspace of cuBLAS,
        # which belongs to a stream, when any graph that was captured there is destroyed (its issue 193402).
        # Of high priority, which its kernels keep: prompts and pictures are computed beside them (`serve.engine.side_stream`).
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle()
        for inputs in reversed(sampler.inputs):  # the largest first: the others fit into its memory
            step.products.prepare(inputs.size)
            self._stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(self._stream):
                for _ in range(2):  # kernels must be chosen and compiled before the capture
                    self._run(inputs)
            graph = torch.cuda.CUDAGraph()
            # another thread may call CUDA meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                self._run(inputs)
            torch.cuda.current_stream(device).wait_stream(self._stream)
            self._captured[inputs.size] = graph

    def __call__(self, batch: KernelBatch) -> list[int]:
        """Decode and draw a step of a batch; returns how many codes each image gained.

        The device is waited for if a window has several places.
        """
        if graph := self._captured.get(batch.inputs.size):
            graph.replay()
        else:
            self._run(batch.inputs)
        return batch.drawn()

    def _run(self, inputs: StepInputs) -> None:
        logits = self._step(inputs.codes, inputs.index, inputs.positions, self._cache)
        draw(logits, inputs, self._state)
