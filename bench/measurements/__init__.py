"""Measured numbers: one schema for all benches, a history, and the change between two measurements."""
