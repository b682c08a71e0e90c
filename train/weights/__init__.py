"""The weights that are trained: where they are, their reference, and how the engine that draws gets them."""
