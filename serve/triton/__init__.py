"""Our engine as a model of NVIDIA's Triton Inference Server; `serve.backends.triton` is its client."""
