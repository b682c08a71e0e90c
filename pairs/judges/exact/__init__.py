"""The exact judge of the procedural world, which reads pictures without a model."""
