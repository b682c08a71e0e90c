"""Judges: scores of pictures against prompts."""
