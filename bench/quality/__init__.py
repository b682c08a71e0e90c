"""How good a checkpoint is: its pictures, judged."""
