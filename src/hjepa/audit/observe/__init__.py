"""What happens in the running program: events in order, some with samples of the weights."""
