"""Janus models: checkpoints, prompts, decoding, sampling, and pictures from codes."""
