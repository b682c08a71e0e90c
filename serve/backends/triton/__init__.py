"""Drawing by Triton servers, seen from the front: the client's side of `serve.triton`."""
