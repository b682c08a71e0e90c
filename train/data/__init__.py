"""Training data: rendered scenes and their captions, each a function of its row number."""
