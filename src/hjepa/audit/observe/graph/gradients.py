"""Which parameters a loss trains, and whether an optimizer holds them."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.program.call_site import caller
from hjepa.audit.observe.program.program_names import parameter_names
from hjepa.audit.observe.program.tensor_pairs import SAMPLES, local
from hjepa.audit.observe.recording import Unheld


def leaves(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the leaves that the tensor depends on through its graph."""
    yield from leaves_below([tensor.grad_fn])


def leaves_below(nodes: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the leaves that nodes of a graph depend on."""
    stack, seen = list(nodes), set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        stack += [following for following, _ in node.next_functions]


class UnheldParameters:
    """Collects parameters that get gradients and are in no optimizer that has stepped.

    What they are is settled at the end: an optimizer that takes over later may hold them, and something that is
    no optimizer of torch may move them.
    """

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._found: dict[int, tuple[weakref.ref[Tensor], Tensor, Unheld]] = {}
        self._leaves: list[Tensor] = []
        self.looked = False

    def holds(self, optimizer: Optimizer) -> None:
        """Note what an optimizer trains."""
        self._held.update(id(p) for group in optimizer.param_groups for p in group["params"])

    def backward_begins(self, roots: Sequence[Tensor]) -> None:
        """Note which parameters the loss depends on; the graph is gone after the pass."""
        found = (leaf for root in roots for leaf in leaves(root))
        self._leaves = [leaf for leaf in found if isinstance(leaf, nn.Parameter) and id(leaf) not in self._held]

    def backward_ends(self, students: set[int], teachers: set[int]) -> None:
        """Keep those that the pass gave a gradient."""
        unheld, self._leaves, self.looked = self._leaves, [], True
        new = [p for p in unheld if id(p) not in teachers and id(p) not in self._found and _has_gradient(p)]
        if not new:
            return
        self._held.update(_held_by_all())
        new = [p for p in new if id(p) not in self._held]
        names, place = parameter_names(new) if new else {}, caller()
        for parameter in new:
            said = Unheld(names[id(parameter)], id(parameter) in students, place)
            self._found[id(parameter)] = (weakref.ref(parameter), _sample(parameter), said)

    def settled(self) -> list[Unheld]:
        """Return those that no optimizer holds by now and that have not moved."""
        if not self._found:
            return []
        held = self._held | _held_by_all()
        kept = []
        for number, (reference, before, said) in self._found.items():
            parameter = reference()
            if number not in held and (parameter is None or torch.equal(_sample(parameter), before)):
                kept.append(said)
        return kept


def _has_gradient(parameter: Tensor) -> bool:
    with suspended_modes():
        return parameter.grad is not None and bool((local(parameter.grad) != 0).any())


def _sample(parameter: Tensor) -> Tensor:
    with suspended_modes():
        return local(parameter).reshape(-1)[:SAMPLES].to("cpu", copy=True)


def _held_by_all() -> set[int]:
    """Return what all optimizers of this process hold, those too that have not stepped yet."""
    optimizers = (thing for thing in gc.get_objects() if issubclass(type(thing), Optimizer))
    groups = (group for optimizer in optimizers for group in getattr(optimizer, "param_groups", ()))
    return {id(parameter) for group in groups for parameter in group["params"]}
