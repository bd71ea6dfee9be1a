"""``hjepa masks``: how a mask sampler covers a grid."""

from collections.abc import Sequence

from hjepa import config as configuration
from hjepa.config import Layer
from hjepa.errors import UserError
from hjepa.masking import Coverage, coverage
from hjepa.setup.build import build_sampler


def mask_statistics(
    grid: str, *, options: Sequence[str] = (), steps: int = 200, batch: int = 256, seed: int = 0
) -> Coverage:
    """Sample masks on a grid such as ``14x14`` with settings of the section ``masking``; return their statistics."""
    rows, cross, columns = grid.lower().partition("x")
    if not (cross and rows.isdigit() and columns.isdigit()):
        raise UserError(f"--grid {grid}: expected rows x columns, such as 14x14")
    for name, count in (("steps", steps), ("batch", batch)):
        if count < 1:
            raise UserError(f"--{name} {count}: must be at least 1")
    sides = int(rows), int(columns)
    given = configuration.read_options(list(options))
    if other := sorted(given.values.keys() - {"masking"}):
        raise UserError(f"--{other[0]}.*: hjepa masks accepts only settings of the section masking")
    layers = [Layer("grid", {"data": {"image_size": sides}, "model": {"patch_size": 1}, "train": {"seed": seed}})]
    resolved = configuration.resolve([*layers, given])
    at_once = batch * resolved.config.masking.contexts
    return coverage(build_sampler(resolved.config), sides, steps=steps, batch=at_once)
