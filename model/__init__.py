"""What a Janus is and how one step of it runs: checkpoints, prompts, sampling, decoding, pictures."""
