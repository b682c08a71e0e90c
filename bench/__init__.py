"""Benchmarks: how well a checkpoint follows prompts, whether the judge can be trusted, how fast it all is."""
