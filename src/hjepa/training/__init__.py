"""The algorithm: the training step and the loop around it, what is minimised, and whether it works."""
