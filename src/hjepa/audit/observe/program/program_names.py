"""Names as the running program writes them: ``trainer.model.encoder``, from its variables, modules and attributes."""

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn

from hjepa.audit.observe.program.call_site import OURS, local_variables
from hjepa.audit.observe.program.tensor_pairs import Part, live_modules, unwrap

TEACHER_WORDS = ("teacher", "target", "ema", "momentum", "averaged", "shadow", "key")
DEPTH = 6  # attributes followed to name a module


class NotFound(ValueError):
    """A name given for a module does not lead to one; the message is for the user."""


def called_teacher(name: str) -> bool:
    """Return whether a name is one that teachers usually have."""
    return any(word in name.lower() for word in TEACHER_WORDS)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > 1 and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(v, torch.Tensor) for v in value)


def lookup(name: str) -> Any:
    """Return the collection of tensors that a name leads to at this moment, None if there is none."""
    first, *rest = name.split(".")
    frame: FrameType | None = sys._getframe(1)
    scopes: list[dict[str, Any]] = []
    while frame is not None:
        if not frame.f_code.co_filename.startswith((torch.__path__[0], OURS)):
            scopes.append(local_variables(frame))
        frame = frame.f_back
    scopes.append(vars(sys.modules["__main__"]))
    for scope in scopes:
        for value, path in ((scope.get(first), rest), (scope.get("self"), [first, *rest])):
            for key in path:
                value = _step_into(value, key)
            if _holds_tensors(value):
                return value
    return None


def _step_into(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, (list, tuple)):
        return value[int(key)] if key.isdigit() and int(key) < len(value) else None
    return getattr(value, key, None)


class ProgramNames:
    """Names of modules as the running program writes them: ``trainer.model.encoder``."""

    def __init__(self) -> None:
        self._roots: list[tuple[str, Any]] = []
        frame = sys._getframe(1)
        while frame is not None:
            if not frame.f_code.co_filename.startswith((torch.__path__[0], OURS)):
                self._roots += list(local_variables(frame).items())
            frame = frame.f_back  # type: ignore[assignment]
        self._roots += list(vars(sys.modules["__main__"]).items())
        self._names: dict[int, str] = {}
        self.collections: list[tuple[str, Any]] = []  # dictionaries and lists of tensors
        for name, value in self._roots:
            if not name.startswith("__"):
                if issubclass(type(value), nn.Parameter):
                    self._names.setdefault(id(value), name)
                self._walk("" if name == "self" else name, value, 0, set())

    def _walk(self, name: str, value: Any, depth: int, above: set[int]) -> None:
        if depth > DEPTH or id(value) in above:
            return
        if _holds_tensors(value):
            self.collections.append((name, value))
            return
        if issubclass(type(value), nn.Module):
            for inner, module in value.named_modules():
                full = ".".join(part for part in (name, inner) if part) or type(value).__name__
                known = self._names.get(id(module))
                if known is None or full.count(".") < known.count("."):
                    self._names[id(module)] = full
        children: Iterable[tuple[str, Any]] = ()
        if isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type(sys)) and depth < 2:
            children = [(k, v) for k, v in vars(value).items() if not k.startswith("_")]
        elif isinstance(value, dict) and depth < 2 and len(value) < 100:
            children = [(str(k), v) for k, v in value.items()]
        elif isinstance(value, (list, tuple)) and depth < 2 and len(value) < 20:
            children = [(str(k), v) for k, v in enumerate(value)]
        for key, child in children:
            if issubclass(type(child), nn.Parameter):
                self._names.setdefault(id(child), f"{name}.{key}" if name else key)
                continue
            if isinstance(getattr(child, "__dict__", None), dict) or isinstance(child, (dict, list, tuple)):
                self._walk(f"{name}.{key}" if name else key, child, depth + 1, above | {id(value)})

    def __contains__(self, number: int) -> bool:
        return number in self._names

    def of(self, module: nn.Module | torch.Tensor) -> str:
        """Return the shortest name of a module or parameter, or its class in brackets."""
        return self._names.get(id(module)) or f"<{type(module).__name__}>"

    def one_network(self, trained: set[int]) -> str:
        """Return words on a trained network that also has a teacher's name (``teacher = encoder``), or nothing."""
        by_module: dict[int, list[str]] = {}
        for name, value in self._roots:
            if issubclass(type(value), nn.Module) and any(id(p) in trained for p in value.parameters()):
                by_module.setdefault(id(value), []).append(name)
        for names in by_module.values():
            teachers = [name for name in names if called_teacher(name)]
            students = [name for name in names if not called_teacher(name)]
            if teachers and students:
                return (
                    f"{students[0]} and {teachers[0]} are names of the same network, which the optimizer trains: if "
                    f"{teachers[0]} is meant to be its average, run again with --student {students[0]} "
                    f"--teacher {teachers[0]}"
                )
        return ""

    def wrappers_of(self, parts: Iterable[Part]) -> list[str]:
        """Return classes of wrappers (DDP, compiled) around the students."""
        inner = {id(part.student) for part in parts}
        found = []
        for module in live_modules():
            core, taken = unwrap(module)
            if taken and any(id(child) in inner for child in core.modules()):
                found += taken
        return sorted(set(found))

    def module(self, name: str) -> nn.Module:
        """Return the module that ``name`` leads to, in the program's variables."""
        first, *rest = name.split(".")
        starts = [value for key, value in self._roots if key == first]
        starts += [getattr(value, first) for key, value in self._roots if key == "self" and hasattr(value, first)]
        for value in starts:
            for attribute in rest:
                value = value[attribute] if isinstance(value, dict) else getattr(value, attribute, None)
            if issubclass(type(value), nn.Module):
                return value
        raise NotFound(f"no module is named {name}; the modules are {', '.join(self._choosable()[:12]) or 'none'}")

    def collection(self, name: str) -> Any:
        """Return the dictionary or list of tensors of this name, None if it is something else."""
        return next((tensors for known, tensors in self.collections if known == name), None)

    def _choosable(self) -> list[str]:
        """Return names of networks, whole ones before what is inside them."""
        found = {self._names.get(id(module)) for module in live_modules() if any(True for _ in module.parameters())}
        return sorted(filter(None, found), key=lambda name: (name.count("."), name))


def parameter_names(parameters: Iterable[torch.Tensor]) -> dict[int, str]:
    """Return names of parameters as the running program writes them (``model.embed.weight``), by identity."""
    wanted = {id(parameter): parameter for parameter in parameters}
    names = ProgramNames()
    found: dict[int, str] = {}
    for module in live_modules():
        for inner, own in module._parameters.items():
            if id(own) in wanted:
                found[id(own)] = f"{names.of(module)}.{inner}"
    for number, parameter in wanted.items():
        found.setdefault(number, names.of(parameter) if number in names else f"a parameter {tuple(parameter.shape)}")
    return found
