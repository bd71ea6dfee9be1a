"""What the loss compares: read from the autograd graph just before the backward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes

NODES = 4000  # of the graph that are looked at
TOKENS = 256  # of the target that are measured


@dataclass
class Compared:
    """One criterion in the loss: statistics of its target, and the gradient that reached it.

    ``mean`` and ``deviation``: over tokens, the largest |mean| of a token, and how far the largest standard
    deviation of one is from 1. Not of every one: a layer norm leaves a token without content, such as the pixels of
    an empty patch, below 1, and none above.  ``factor``: what the criterion's value is multiplied with in the loss.
    """

    name: str
    target_shape: tuple[int, ...]
    target_has_graph: bool
    mean: float | None = None
    deviation: float | None = None
    factor: float | None = None


class _Factor:
    """Notes the gradient arriving at a criterion: what its value is multiplied with."""

    def __init__(self, compared: Compared) -> None:
        self.compared = compared

    def __call__(self, gradients: tuple[Tensor | None, ...]) -> None:
        first = gradients[0] if gradients else None
        if first is not None and first.numel() == 1:
            with suspended_modes():
                self.compared.factor = float(first)


class Criterion:
    """Finds the criteria of a loss."""

    def watch(self, roots: Sequence[Tensor]) -> list[Compared]:
        """Return the criteria that the roots of a backward pass depend on; factors follow in the pass."""
        found: list[Compared] = []
        stack: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
        seen: set[Any] = set()
        while stack and len(seen) < NODES:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            pair = _operands(node)
            if pair is None:
                stack += [following for following, _ in node.next_functions if following is not None]
                continue
            name = str(node.name())
            for target, other in (pair, pair[::-1]):
                if not target.requires_grad or target is pair[0]:
                    compared = _compared(name, target)
                    compared.target_has_graph = target.requires_grad and other.requires_grad
                    node.register_prehook(_Factor(compared))
                    found.append(compared)
                    break
        return found


def _operands(node: Any) -> tuple[Tensor, Tensor] | None:
    """Return (target, prediction) of a criterion that keeps both, else None."""
    try:
        target, prediction = getattr(node, "_saved_target", None), getattr(node, "_saved_self", None)
    except RuntimeError:  # freed already
        return None
    if not isinstance(target, Tensor) or not isinstance(prediction, Tensor) or not target.is_floating_point():
        return None
    return target, prediction


def _compared(name: str, target: Tensor) -> Compared:
    compared = Compared(name.removesuffix("Backward0"), tuple(target.shape), target.requires_grad)
    if target.ndim >= 2 and target.shape[-1] > 1:
        with suspended_modes():
            tokens = target.detach().reshape(-1, target.shape[-1])
            tokens = tokens[:: max(1, len(tokens) // TOKENS)][:TOKENS].double()
            compared.mean = float(tokens.mean(dim=-1).abs().max())
            compared.deviation = float((tokens.std(dim=-1, correction=0).max() - 1).abs())
    return compared
