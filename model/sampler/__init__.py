"""Codes of all images being drawn, and sampling of the next ones."""
