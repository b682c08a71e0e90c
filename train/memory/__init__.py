"""Memory that a run needs, computed before it."""
