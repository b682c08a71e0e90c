"""Pairs of prompts: the procedural world of scenes, captions and pictures, PairComp's cases, and the judges."""
