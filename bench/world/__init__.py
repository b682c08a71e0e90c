"""Quality of a checkpoint: judged pictures."""
