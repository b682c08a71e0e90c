"""What training reads: rendered scenes and their captions, each a function of its row number."""
