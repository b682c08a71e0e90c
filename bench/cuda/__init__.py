"""A GPU's path in parts, each in a process of its own: what every part of a step takes, against what the card could do."""
