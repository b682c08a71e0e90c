"""Training of the shipped checkpoints from scratch: tokenizers, network and pipeline."""
