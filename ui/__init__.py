"""The demo: two prompts that differ by a word, side by side; a client of the HTTP API."""
