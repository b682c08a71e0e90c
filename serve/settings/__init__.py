"""Settings of the commands that serve; no module here imports torch."""
