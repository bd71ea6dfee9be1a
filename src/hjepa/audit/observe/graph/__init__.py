"""What the autograd graph of a loss tells before the backward pass frees it."""
