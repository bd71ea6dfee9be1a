"""Load weights by name, strictly; also those of released I-JEPA checkpoints."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.models.hjepa import HJEPA

PARTS = ("encoder", "predictor", "target_encoder")


class Matched(NamedTuple):
    """How many tensors of a part were loaded."""

    part: str
    tensors: int

    def __str__(self) -> str:
        return f"{self.part}: {self.tensors} of {self.tensors} tensors matched"


def load_released(model: HJEPA, weights: Mapping[str, Mapping[str, Tensor]]) -> list[Matched]:
    """Load the parts of a released checkpoint, strictly; return how many tensors matched.

    ``weights`` maps ``encoder``, ``predictor`` and ``target_encoder`` to state dicts, each with or
    without the prefix ``module.``. Without ``target_encoder`` the target is copied from the encoder.
    Nothing is changed unless everything matches (UserError naming the first tensor that does not).
    """
    homes: dict[str, nn.Module] = {
        "encoder": model.context_encoder.vit,
        "predictor": model.predictor,
        "target_encoder": model.target_encoder.encoder.vit,
    }
    given = {part: without_prefix(state) for part, state in weights.items() if part in homes}
    if "encoder" not in given:
        raise UserError(f"no 'encoder' among {sorted(weights)}: a released checkpoint has {', '.join(PARTS)}")
    for part, state in given.items():
        refuse_misfit(part, homes[part], state)
    for part, state in given.items():
        homes[part].load_state_dict(state)
    if "target_encoder" not in given:
        model.target_encoder.copy_from_context_encoder(model.context_encoder)
    return [Matched(part, len(state)) for part, state in given.items()]


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix ``module.`` that a DDP wrapper adds to every name."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def refuse_misfit(part: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise UserError unless names and shapes are exactly those of ``module``."""
    own = module.state_dict()
    matched = sum(name in own and own[name].shape == tensor.shape for name, tensor in state.items())
    report = f"({matched} of {len(own)} tensors matched)"
    for name in own:
        if name not in state:
            raise UserError(f"{part}: {name} is missing {report}; use a checkpoint of the same architecture")
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{part}: {name} is {tuple(state[name].shape)}, but this model needs {tuple(own[name].shape)} "
                f"{report}; set model.* to the checkpoint's sizes"
            )
    if extra := sorted(state.keys() - own.keys()):
        raise UserError(f"{part}: {extra[0]} does not exist in this model {report}; set model.depth to match")
