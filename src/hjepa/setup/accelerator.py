"""Start accelerate, and share the configuration among ranks."""

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from hjepa.config import Config, Resolved
from hjepa.errors import UserError
from hjepa.processes import world_size
from hjepa.setup.machine import keep_freed_memory


def start_accelerator(config: Config) -> Accelerator:
    """Return an ``Accelerator``; precision and compilation follow our settings, not those of the launcher.

    Raises UserError if the launcher has chosen a different device than the settings.
    """
    if world_size() == 1:
        AcceleratorState._reset_state(True)  # an earlier run of this Python process may have been on another device
    if config.train.device == "cpu":
        keep_freed_memory()
    accelerator = Accelerator(cpu=config.train.device == "cpu", mixed_precision="no", dynamo_backend="no")
    if accelerator.device.type != config.train.device:
        raise UserError(
            f"train.device = {config.train.device}, but the launcher chose {accelerator.device.type}: "
            f"use --train.device {accelerator.device.type}, or launch without --cpu"
        )
    return accelerator


def broadcast_config(resolved: Resolved) -> Resolved:
    """Return the configuration of rank 0 on every rank."""
    box = [resolved]
    broadcast_object_list(box)
    return box[0]
