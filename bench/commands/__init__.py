"""The benches of `focusdiff-bench`: their arguments, and what they print."""
