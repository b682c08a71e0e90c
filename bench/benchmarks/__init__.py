"""Benchmarks, one file each: prompts, the official layout of pictures, and the aggregation of scores."""
