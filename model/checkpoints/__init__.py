"""Checkpoints in and out: DeepSeek's and transformers' layouts in, transformers' layout out."""
