"""Readers of prompts and pictures: one for each kind of file."""
