"""Speed of windows of several places, and the numbers that explain it."""
