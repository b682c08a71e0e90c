"""Pair-GRPO (paper, section 3.3): GRPO whose groups span both prompts of a pair, with ground truth among them.

plan → draw → judge → advantages → credit → micro-batches → update → refresh
"""
