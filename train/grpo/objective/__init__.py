"""From judged samples to a gradient: advantages, credit, policy, loss."""
