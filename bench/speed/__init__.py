"""How fast: the engine beside other loops, and a serving process under load."""
