"""Finds teacher, student and optimizers of a running program, without arguments.

At an optimizer step, a student is a module whose parameters that optimizer trains; its teacher is another
module with parameters of the same names and shapes that is not trained.  Several that fit are listed with
the way to choose; none is guessed.
"""

import functools
import gc
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hjepa.audit.observe.program.program_names import TEACHER_WORDS, NotFound, ProgramNames, called_teacher, lookup
from hjepa.audit.observe.program.tensor_pairs import Part, Shadow, live_modules, local, named, storages, unwrap

OVERLAP = 0.8  # share of names and shapes that two networks must have in common
NAMED_OVERLAP = 0.5  # the same for two that the user has named: heads of the student alone are no mistake
LIBRARY_AVERAGES = ("AveragedModel", "ModelEma", "ModelEmaV2", "ModelEmaV3")


@dataclass
class Found:
    """What was found: ``parts`` of one subject, several ``candidates`` of which none was chosen, or a ``problem``."""

    parts: list[Part] = field(default_factory=list)
    student: str = ""
    teacher: str = ""
    wrappers: list[str] = field(default_factory=list)
    how: str = ""
    candidates: list[str] = field(default_factory=list)
    problem: str = ""  # why this optimizer does not train what was named; another one may


def discover(optimizer: Optimizer, student: str | None = None, teacher: str | None = None) -> Found:
    """Return the teacher-student pair that ``optimizer`` trains, or candidates.

    ``student`` and ``teacher`` are names as in the program (``model.encoder``).  Raises ``NotFound`` when a
    name leads nowhere, or the two to no pair.
    """
    gc.collect()  # models of earlier runs that nobody holds any more are no teachers
    names = ProgramNames()
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if student and teacher:
        return _named_pair(names, student, teacher, trained)
    modules = [unwrap(module)[0] for module in live_modules()]
    modules = list({id(module): module for module in modules}.values())
    pairs = _largest(_pairs(modules, trained) or _both_trained(modules, trained, names))
    if student or teacher:
        pairs = _chosen(pairs, names, student, teacher)
    found = _decide(pairs, names)
    if not found.candidates and not (student or teacher) and not any(_looks_averaged(p, names) for p in found.parts):
        shadow = _shadow(modules, trained, names)
        found = shadow if shadow.parts else found
    if not found.parts and not found.candidates:
        found.problem = names.one_network(trained)
    return found


def _named_pair(names: "ProgramNames", student: str, teacher: str, trained: set[int]) -> Found:
    if student == teacher:
        raise NotFound(
            f"student and teacher are both {student}: give the names of the student and of its averaged copy"
        )
    (mine, taken), shadow = unwrap(names.module(student)), names.collection(teacher)
    other: nn.Module
    more: list[str]
    if shadow is not None:
        other, more = Shadow(shadow, list(named(mine)), functools.partial(lookup, teacher)), []
    else:
        other, more = unwrap(names.module(teacher))
    if mine is other:
        if not _ids(mine) & trained:
            return Found(problem=f"{student} and {teacher} are the same network, which the optimizer does not train")
        return Found([Part(mine, mine)], student, teacher, taken, "named by the user: two names of the same network")
    theirs = _signature(other)
    common = len(theirs & _signature(mine))
    if common < NAMED_OVERLAP * len(theirs) or not common:
        raise NotFound(
            f"{student} and {teacher} do not match: {common} of the {len(theirs)} tensors of {teacher} have the same "
            f"name and shape as a tensor of {student}"
        )
    if not _ids(mine) & trained:
        exchanged = f"; it trains {teacher}: are the two names swapped?" if _ids(other) & trained else ""
        return Found(problem=f"the optimizer that takes steps does not train the student {student}{exchanged}")
    return Found([Part(mine, other)], student, teacher, taken + more, "named by the user")


SHADOW_WORDS = (*TEACHER_WORDS, "average", "avg")


def _shadow(modules: list[nn.Module], trained: set[int], names: "ProgramNames") -> Found:
    """Return a student whose average is kept in a dictionary or list of tensors that is called one."""
    students = [module for module in modules if _ids(module) & trained]
    for module in sorted(students, key=_size, reverse=True):
        for name, tensors in names.collections:
            if any(word in name.lower() for word in SHADOW_WORDS) and _mirrors(tensors, module):
                teacher = Shadow(tensors, list(named(module)), functools.partial(lookup, name))
                how = "the optimizer trains the student; a collection has tensors of the same names and shapes"
                return Found([Part(module, teacher)], names.of(module), name, names.wrappers_of([]), how)
    return Found()


def _mirrors(tensors: Any, student: nn.Module) -> bool:
    """Return whether a collection holds a tensor for each parameter of the student, in memory of its own."""
    mine = named(student)
    shadow = dict(Shadow(tensors, list(mine)).named_parameters())
    if len(shadow) < len(mine) or any(shadow[name].shape != p.shape for name, p in mine.items()):
        return False
    own = {address for address, _, _ in storages(list(mine.values()))}
    return not any(address in own for address, _, _ in storages(list(shadow.values())))


def averager_of(parts: Iterable[Part]) -> str:
    """Return the class of a library's weight average that holds a teacher, or an empty string."""
    teachers = {id(part.teacher) for part in parts}
    for module in live_modules():
        kind = type(module).__name__
        if kind in LIBRARY_AVERAGES and any(id(child) in teachers for child in module.children()):
            return kind
    return ""


def _looks_averaged(part: Part, names: "ProgramNames") -> bool:
    """Return whether a teacher holds nearly the student's values or is called one; a frozen stranger is neither."""
    return called_teacher(names.of(part.teacher)) or _near(part.student, part.teacher)


def _signature(module: nn.Module) -> frozenset[tuple[str, torch.Size]]:
    return frozenset((name, parameter.shape) for name, parameter in named(module).items())


def _pairs(modules: list[nn.Module], trained: set[int]) -> list[tuple[nn.Module, nn.Module]]:
    """Return (student, teacher) pairs of modules with the same parameters of which one is trained."""
    students, others, partly = [], [], []
    # A step with a closure computes its gradients inside: there are none yet.
    waiting = all(p.grad is None for module in modules for p in module.parameters() if id(p) in trained)
    for module in modules:
        parameters = list(module.parameters())
        if not parameters or all(p.ndim < 2 for p in parameters):
            continue
        learning = [p for p in parameters if id(p) in trained and p.requires_grad and (waiting or p.grad is not None)]
        if len(learning) > len(parameters) / 2:
            students.append(module)
        elif learning:  # adapters, or a few blocks: the rest is frozen
            partly.append(module)
        if not learning or any(word in type(module).__name__.lower() for word in TEACHER_WORDS):
            others.append(module)
    found = []
    signatures = {id(module): _signature(module) for module in (*students, *partly, *others)}
    by_signature: dict[frozenset[Any], list[nn.Module]] = {}
    for other in others:
        by_signature.setdefault(signatures[id(other)], []).append(other)
    for mine in students:
        exact = by_signature.get(signatures[id(mine)], [])
        close = exact or [
            o for o in others if _close(signatures[id(mine)], signatures[id(o)]) and type(o) is type(mine)
        ]
        found += [(mine, other) for other in close if _separate(mine, other)]
    for mine in partly:
        exact = by_signature.get(signatures[id(mine)], [])
        found += [(mine, other) for other in exact if _separate(mine, other)]
    twins = [(_ids(one), _ids(other)) for one, other in found if signatures[id(one)] == signatures[id(other)]]
    return [pair for pair in found if not _crosses(pair, twins)]


def _ids(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters()}


def _crosses(pair: tuple[nn.Module, nn.Module], exact: list[tuple[set[int], set[int]]]) -> bool:
    """Return whether the teacher of an inexact pair belongs to another student, exactly (a predictor's twin)."""
    mine, other = _ids(pair[0]), _ids(pair[1])
    return (mine, other) not in exact and any(other & theirs and not mine & ours for ours, theirs in exact)


def _both_trained(
    modules: Iterable[nn.Module], trained: set[int], names: "ProgramNames"
) -> list[tuple[nn.Module, nn.Module]]:
    """Return pairs of which both are trained, by mistake: the teacher is known by its name and values alone."""
    learning = [module for module in modules if any(id(p) in trained for p in module.parameters())]
    teachers = [module for module in learning if called_teacher(names.of(module))]
    return [
        (mine, other)
        for other in teachers
        for mine in learning
        if not called_teacher(names.of(mine))
        and _signature(mine) == _signature(other)
        and _separate(mine, other)
        and _near(mine, other)
    ]


def _close(a: frozenset[Any], b: frozenset[Any]) -> bool:
    return len(a) > 3 and len(a & b) >= OVERLAP * max(len(a), len(b))


def _separate(a: nn.Module, b: nn.Module) -> bool:
    """Return whether neither stands inside the other."""
    return all(a is not module for module in b.modules()) and all(b is not module for module in a.modules())


def _largest(pairs: list[tuple[nn.Module, nn.Module]]) -> list[tuple[nn.Module, nn.Module]]:
    """Drop pairs that are the same place inside a larger pair, or cross pairs of twins inside one."""
    kept: list[tuple[nn.Module, nn.Module]] = []
    inside: list[tuple[set[int], set[int]]] = []
    # Of a wrapper and its only child, which hold the same parameters, the wrapper: its forward may pick tokens.
    for mine, other in sorted(pairs, key=lambda pair: _size(pair[0]), reverse=True):
        ids = {id(p) for p in mine.parameters()}, {id(p) for p in other.parameters()}
        if any(ids[0] <= students and ids[1] <= teachers for students, teachers in inside):
            continue
        # A block of the student beside a block of ANOTHER place of the teacher is no pair either.
        if any(ids[0] < students or ids[1] < teachers for students, teachers in inside):
            continue
        # What lies inside a student is a part of it, not the teacher of another part.
        if any(ids[1] <= students for students, _ in inside):
            continue
        kept.append((mine, other))
        inside.append(ids)
    return kept


def _size(module: nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in module.parameters()), sum(1 for _ in module.modules())


def _chosen(
    pairs: list[tuple[nn.Module, nn.Module]], names: "ProgramNames", student: str | None, teacher: str | None
) -> list[tuple[nn.Module, nn.Module]]:
    for name, side in ((student, 0), (teacher, 1)):
        if name:
            module = unwrap(names.module(name))[0]
            pairs = [pair for pair in pairs if pair[side] is module]
    return pairs


def _decide(pairs: list[tuple[nn.Module, nn.Module]], names: "ProgramNames") -> Found:
    """Accept when every student has one teacher and every teacher one student; otherwise list."""
    pairs = [pair for pair in pairs if not _neighbours(*map(names.of, pair)) or _near(*pair)]
    pairs = _prefer(pairs, names)
    near = [pair for pair in pairs if _near(*pair)]
    if not pairs:
        return Found()
    if near:  # beside a true teacher, a stranger with the same shapes (another run's network) is none
        pairs = [pair for pair in pairs if pair in near or called_teacher(names.of(pair[1]))]
    students, teachers = [id(mine) for mine, _ in pairs], [id(other) for _, other in pairs]
    lines = [f"student {names.of(mine)}, teacher {names.of(other)}" for mine, other in pairs]
    if len(set(students)) < len(pairs) or len(set(teachers)) < len(pairs):
        return Found(candidates=lines)
    shown = [(names.of(mine), names.of(other)) for mine, other in pairs]
    parts = [Part(mine, other, name.rsplit(".", 1)[-1]) for (mine, other), (name, _) in zip(pairs, shown, strict=True)]
    if len({part.name for part in parts}) < len(parts):
        parts = [Part(part.student, part.teacher, f"{part.name}{n}") for n, part in enumerate(parts)]
    return Found(
        parts,
        ", ".join(name for name, _ in shown),
        ", ".join(name for _, name in shown),
        names.wrappers_of(parts),
        "the optimizer trains the student; the teacher has parameters of the same names and shapes and is not trained",
    )


def _neighbours(student: str, teacher: str) -> bool:
    """Return whether two names differ in one number alone: blocks of one network, of which one is frozen."""
    return re.sub(r"\d+", "", student) == re.sub(r"\d+", "", teacher) and not called_teacher(teacher)


def _prefer(pairs: list[tuple[nn.Module, nn.Module]], names: "ProgramNames") -> list[tuple[nn.Module, nn.Module]]:
    """Where a module has several twins, prefer those that hold its values, then those named as teachers."""
    tests = (
        lambda pair: _near(*pair),
        lambda pair: called_teacher(names.of(pair[1])),
        lambda pair: _last(names.of(pair[0])) in _last(names.of(pair[1])),  # projector, target_projector
    )
    for side in (0, 1):
        for test in tests:
            kept = []
            for module in {id(pair[side]): pair[side] for pair in pairs}.values():
                twins = [pair for pair in pairs if pair[side] is module]
                kept += ([pair for pair in twins if test(pair)] or twins) if len(twins) > 1 else twins
            pairs = kept
    return pairs


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _near(student: nn.Module, teacher: nn.Module) -> bool:
    """Return whether the two hold nearly the same values: closer than a fresh copy would be."""
    mine = named(student)
    with torch.no_grad():
        for name, other in named(teacher).items():
            partner = mine.get(name)
            if partner is None or partner.shape != other.shape or other.ndim < 2:
                continue
            a, b = local(partner).float().reshape(-1)[:4096], local(other).float().reshape(-1)[:4096]
            if float((a - b).norm()) > 0.5 * float(a.norm() + 1e-12):
                return False
    return True
