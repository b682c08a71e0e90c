"""Training: the image tokenizer, SFT, and the recipes of the shipped checkpoints."""
