"""Speed of the engine against other loops, and of a server under load."""
