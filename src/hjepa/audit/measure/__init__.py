"""From samples of the weights to numbers: updates, momentum, lag, schedule."""
