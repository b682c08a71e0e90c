"""Pairs from picture edits, as FocusDiff-Data was made (paper, section 3.1): filter → caption → verify, one retry."""
