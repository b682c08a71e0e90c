"""Checkpoints: DeepSeek's and transformers' layouts are read, transformers' layout is written."""
