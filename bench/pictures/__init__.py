"""Pictures of a benchmark: drawn by any generator into a folder, and resumed after a stop."""
