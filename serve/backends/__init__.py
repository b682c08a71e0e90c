"""Backends of a server: the Backend protocol, engines in processes of their own, and models by name."""
