"""Rank and world size of this process (torchrun, accelerate launch), before any library has been initialised."""

import os


def rank() -> int:
    """Return the global rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Return whether this is rank 0, the only process that prints and writes files."""
    return rank() == 0


def world_size() -> int:
    """Return the number of processes that were launched together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))
