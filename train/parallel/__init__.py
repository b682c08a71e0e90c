"""Training in several processes, started by torchrun: who they are, and where the weights are."""
