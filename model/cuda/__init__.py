"""The decode step on an NVIDIA GPU: captured graphs and an attention kernel."""
