"""Training: the image tokenizer, SFT, and the recipes that make the shipped checkpoints."""
