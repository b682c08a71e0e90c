"""Proof that the image can be built and serves; `deploy/prove` runs it."""
