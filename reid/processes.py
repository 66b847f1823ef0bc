"""Which of several processes this one is, without torch: the only reader of RANK, LOCAL_RANK and WORLD_SIZE, which torchrun sets."""

import os


def world_size() -> int:
    """How many processes share the work."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """This one's number among all, from 0."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This one's number among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main_process() -> bool:
    """True in the one process that prints and writes."""
    return rank() == 0
