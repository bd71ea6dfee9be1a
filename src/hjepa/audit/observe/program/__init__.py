"""The running program: its modules, tensors and names, and the lines of its code."""
