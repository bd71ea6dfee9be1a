"""Which terms of a loss involve the student: a probe on the teacher's features is trained by a term of its own."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from hjepa.audit.observe.graph.gradients import leaves_below

# Through these the terms of a sum stay apart: none changes the gradient of another.
SUMS = (
    "Add",
    "Sub",
    "Neg",
    "Sum",
    "Mean",
    "Stack",
    "Cat",
    "Squeeze",
    "Unsqueeze",
    "View",
    "Reshape",
    "Unbind",
    "Select",
)
SCALED = ("Mul", "Div")  # by a number, or by a tensor without a graph
TERMS = 32  # of one loss that are told apart


class LossTerms:
    """Collects the parameters of terms with the student in them, and of terms without it."""

    def __init__(self) -> None:
        self._with: set[int] = set()
        self._without: set[int] = set()
        self.met: set[int] = set()  # parameters whose results entered an operation together with the student's

    def look(self, roots: Sequence[Tensor], students: set[int]) -> None:
        """Note the parameters that each term of a loss depends on; the graph is gone after the pass."""
        terms = list(_terms([root.grad_fn for root in roots]))
        for nodes in [[node] for node in terms] if len(terms) <= TERMS else [terms]:
            found = {id(leaf) for leaf in leaves_below(nodes)}
            (self._with if found & students else self._without).update(found)

    def apart(self, parameters: Sequence[int]) -> bool:
        """Return whether a loss trains these parameters and the student's gradient depends on none of them."""
        known = set(parameters)
        return bool(known) and known <= self._without and not known & (self._with | self.met)


def _terms(roots: Sequence[Any]) -> Iterator[Any]:
    """Yield the nodes below the sums at the top of a graph."""
    stack, seen = list(roots), set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        below = [following for following, _ in node.next_functions if following is not None]
        name = str(node.name()).partition("Backward")[0]
        if name in SUMS or (name in SCALED and len(below) == 1):
            stack += below
        else:
            yield node
