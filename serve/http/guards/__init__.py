"""Checks around a route: request id, body size, API key, rate limit, unknown paths."""
