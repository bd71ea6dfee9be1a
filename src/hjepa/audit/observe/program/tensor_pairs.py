"""Which tensor of the teacher belongs to which of the student, and samples of both.

The update is linear and elementwise, so any fixed set of coordinates obeys the same recursion exactly:
64 coordinates of each tensor say as much about order and momentum as all of them.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module")
"""Names that torch.compile, FSDP and activation checkpointing put into a parameter's path."""
SAMPLES = 64  # coordinates of a tensor


@dataclass(frozen=True)
class Part:
    """A student module and its teacher; a subject may have several (backbone, projector)."""

    student: nn.Module
    teacher: nn.Module
    name: str = ""  # prefix of its tensors' names


class Shadow(nn.Module):
    """A teacher that is no module: a dictionary or list of tensors, read as it is at each moment.

    The update may write into the tensors or put new ones in their place; ``names`` are those of the student's
    parameters, in order.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor] | Sequence[Tensor],
        names: Sequence[str],
        find: Callable[[], Mapping[str, Tensor] | Sequence[Tensor] | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.tensors = tensors
        self.find = find
        self.training = False

    def refresh(self) -> None:
        """Look where the program keeps the tensors now: an update may put a new collection under the old name."""
        self.tensors = self.find() or self.tensors

    def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the tensors under the names of the student's parameters."""
        held = self.tensors
        if isinstance(held, Mapping):
            found = {name.removeprefix("module."): tensor for name, tensor in held.items()}
            pairs = [(name, found[name]) for name in self.names if name in found]
        else:
            pairs = list(zip(self.names, held, strict=False))
        yield from pairs  # type: ignore[misc]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the tensors."""
        yield from (tensor for _, tensor in self.named_parameters())


@dataclass
class TensorPair:
    """One tensor of the teacher, its partner, and where its sample lies in the sampled vector."""

    name: str
    teacher: Tensor
    student: Tensor | None  # None: the student has no tensor of this name and shape
    buffer: bool
    start: int = 0
    stop: int = 0
    tied: bool = False  # stands under several names in the teacher

    @property
    def sampled(self) -> slice:
        """Where this tensor's coordinates lie in a snapshot."""
        return slice(self.start, self.stop)


@dataclass
class Tensors:
    """All tensors of a subject.  ``pairs`` have partners; the rest is listed by name."""

    pairs: list[TensorPair]
    buffers: list[TensorPair]
    teacher_only: list[str] = field(default_factory=list)
    student_only: list[str] = field(default_factory=list)


def plain_name(name: str) -> str:
    """Return a parameter's name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrap(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the module inside DDP, DataParallel, torch.compile or AveragedModel, and what was taken off."""
    taken: list[str] = []
    while True:
        children = dict(module.named_children())
        inner = next((children[name] for name in ("_orig_mod", "module") if set(children) == {name}), None)
        if inner is None or any(True for _ in module.parameters(recurse=False)):
            return module, taken
        taken.append(type(module).__name__)
        module = inner


def live_modules() -> Iterator[nn.Module]:
    """Yield every module of this process."""
    for thing in gc.get_objects():
        if issubclass(type(thing), nn.Module) and "_parameters" in thing.__dict__:  # initialised
            yield thing


def named(module: nn.Module, *, buffers: bool = False) -> dict[str, Tensor]:
    """Return parameters (or persistent buffers) by plain name, tied ones once."""
    found = module.named_buffers() if buffers else module.named_parameters()
    return {plain_name(name): tensor for name, tensor in found}


def local(tensor: Tensor) -> Tensor:
    """Return this process's share of a sharded tensor, detached."""
    tensor = tensor.detach()
    to_local = getattr(tensor, "to_local", None)
    return to_local() if callable(to_local) else tensor


def match(parts: Sequence[Part]) -> Tensors:
    """Pair the tensors of all parts by name and shape."""
    found = Tensors([], [])
    for part in parts:
        prefix = f"{part.name}." if part.name and len(parts) > 1 else ""
        tied = tied_names(part.teacher)
        for buffers, into in ((False, found.pairs), (True, found.buffers)):
            students, teachers = named(part.student, buffers=buffers), named(part.teacher, buffers=buffers)
            for name, teacher in teachers.items():
                student = students.get(name)
                if student is not None and student.shape == teacher.shape:
                    into.append(TensorPair(prefix + name, teacher, student, buffers, tied=name in tied))
                else:
                    found.teacher_only.append(prefix + name)
            found.student_only += [prefix + name for name in students if name not in teachers]
    _place(found.pairs)
    _place(found.buffers)
    return found


def _place(pairs: list[TensorPair]) -> None:
    position = 0
    for pair in pairs:
        pair.start = position
        position += min(SAMPLES, local(pair.teacher).numel())
        pair.stop = position


def tied_names(module: nn.Module) -> set[str]:
    """Return plain names of parameters that stand under several names (tied weights)."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
    return {name for group in names.values() if len(group) > 1 for name in group}


class Sampler:
    """Reads the same coordinates of many tensors again and again: one float64 vector on the CPU."""

    def __init__(self, pairs: Sequence[TensorPair]) -> None:
        self.size = pairs[-1].stop if pairs else 0
        generator = torch.Generator().manual_seed(0)  # our own: the run's random numbers stay untouched
        self._index = {pair.name: _coordinates(local(pair.teacher), generator) for pair in pairs}

    def read(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the samples of ``tensors`` (by name, in the order of the pairs), float64 ``[n]``.

        A tensor that is gone or has another size gives NaN.
        """
        values = []
        for name, index in self._index.items():
            tensor = tensors.get(name)
            values.append(torch.full((len(index),), torch.nan) if tensor is None else _take(tensor, index))
        if not values:
            return torch.zeros(0, dtype=torch.float64)
        if len({(value.dtype, value.device) for value in values}) == 1:
            return torch.cat(values).double().cpu()  # one copy from the device
        return torch.cat([value.double().cpu() for value in values])

    def one(self, name: str, tensor: Tensor) -> Tensor:
        """Return the sample of a single tensor, float64."""
        return _take(tensor, self._index[name]).double().cpu()


def _coordinates(tensor: Tensor, generator: torch.Generator) -> Tensor:
    count = tensor.numel()
    if count <= SAMPLES:
        index = torch.arange(count)
    else:  # one in each of 64 equal stretches, so that a pattern in the tensor cannot hide
        edges = torch.arange(SAMPLES, dtype=torch.float64) * (count / SAMPLES)
        jitter = torch.rand(SAMPLES, dtype=torch.float64, generator=generator) * (count / SAMPLES)
        index = (edges + jitter).long().clamp_(max=count - 1)
    return index.to(tensor.device)


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    mine = local(tensor)
    if mine.is_meta or mine.numel() == 0 or (len(index) and int(index[-1]) >= mine.numel()):
        return torch.full((len(index),), torch.nan)
    return torch.take(mine, index if index.device == mine.device else index.to(mine.device))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        # Inside torch.vmap and torch.func a tensor is a view of many, with no storage to look at.
        return [] if torch._C._functorch.is_functorch_wrapped_tensor(value) else [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for name in value.__dataclass_fields__ for tensor in tensors_in(getattr(value, name))]
    return []


def storages(tensors: Sequence[Tensor]) -> Iterator[tuple[int, int, int]]:
    """Yield (storage address, first byte, last byte) of each tensor that has a storage."""
    for tensor in tensors:
        mine = local(tensor)
        if mine.is_meta or mine.numel() == 0:
            continue
        start = int(mine.storage_offset()) * mine.element_size()
        last = sum((n - 1) * int(s) for n, s in zip(mine.shape, mine.stride(), strict=True))
        length = (last + 1) * mine.element_size()
        yield mine.untyped_storage().data_ptr(), start, start + length
