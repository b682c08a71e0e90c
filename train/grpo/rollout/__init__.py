"""The samples of a step: planned, drawn by the engine, judged."""
