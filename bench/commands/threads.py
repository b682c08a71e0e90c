"""Settings of the engine's threads that must be made before torch is imported."""

import os


def let_threads_sleep() -> None:
    """Let the engine's threads sleep while they wait for each other, so that they leave cores to the judge and the writers."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
