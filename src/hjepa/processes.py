"""Which process of a launch (torchrun, accelerate launch) this one is, before any library has been set up."""

import os


def rank() -> int:
    """Return the number of this process among all of its launch; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Return whether this is the process that speaks and writes."""
    return rank() == 0


def world_size() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
