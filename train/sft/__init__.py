"""Supervised fine-tuning of the decoder."""
