"""Benchmarks: prompt following of a checkpoint, reliability of the judge, and speed."""
