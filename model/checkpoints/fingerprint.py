"""Fingerprint of a model's weights."""

from hashlib import sha256

import torch

from model.janus import Janus


def fingerprint(janus: Janus) -> str:
    """First 16 hex digits of the SHA-256 of all names and weights, in the dtype they were loaded in."""
    digest = sha256()
    for name, tensor in sorted(janus.network.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
