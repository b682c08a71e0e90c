"""Gradio demo that compares two similar prompts side by side; a client of the HTTP API."""
