"""Follows every operation of a step: writes to the teacher with file and line, and where targets come from.

A dispatch mode sees also what ``Tensor._version`` and hooks miss: writes through ``.data`` and in lists.
"""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa.audit.observe.event_log import EventLog
from hjepa.audit.observe.graph.loss_terms import LossTerms
from hjepa.audit.observe.hooks.dispatch_modes import push_to_bottom, remove_mode, suspended_modes
from hjepa.audit.observe.program.call_site import caller, stack
from hjepa.audit.observe.program.program_names import parameter_names
from hjepa.audit.observe.program.tensor_pairs import TensorPair
from hjepa.audit.observe.recording import Write

FROM_TEACHER, FROM_STUDENT = 1, 2
NAMES = 20  # trained tensors that are remembered for each value


class Tracer(TorchDispatchMode):
    """Active from the end of one optimizer step to the end of another.

    It lies below the program's own modes: those may come and go meanwhile, each taking off the topmost.
    ``error`` is one of ours; the observer ends the audit at its next hook, as a mode cannot be taken out at work.
    """

    def __init__(self, log: EventLog, terms: LossTerms) -> None:
        super().__init__()
        self._terms = terms
        self._log, self._networks = log, log.networks
        self.trace = log.recording.trace
        self._lent: list[tuple[Tensor, int]] = []  # the teacher's inputs: what they were before its forward
        self._active = False
        self.error: Exception | None = None
        self._origins = _Origins()
        self._sides: list[tuple[int, str]] = []  # (optimizer steps finished, whose tensor) of writes, runs as one
        self._written: dict[Any, tuple[int, ...]] = {}  # operation -> which arguments it writes to
        self._places()

    def _places(self) -> None:
        pairs = self._networks.tensors.pairs
        self._teacher = {_storage(pair.teacher): pair for pair in pairs}
        buffers = self._networks.tensors.buffers
        self._counters = {_storage(pair.teacher): pair for pair in buffers if not pair.teacher.is_floating_point()}
        self._student = {_storage(pair.student): pair for pair in pairs if pair.student is not None}
        teachers = {id(p) for part in self._networks.parts for p in part.teacher.parameters()}
        self._parameters = {str(n): p for n, p in enumerate(self._networks.optimized()) if id(p) not in teachers}
        self._trained = {
            _storage(p): number for number, p in self._parameters.items() if _storage(p) not in self._teacher
        }

    def begin(self, step: int) -> None:
        """Start following."""
        if self.trace.first_step < 0:
            self.trace.first_step = step
        self._active = True
        push_to_bottom(self)

    def end(self, step: int) -> None:
        """Stop following, wherever in the stack of modes it lies."""
        self.trace.last_step = step
        self._active = False
        remove_mode(self)
        self._give_names()

    def _give_names(self) -> None:
        """Put the program's names of parameters in place of their numbers; looking for them takes a while."""
        found = {key: place for key, place in self.trace.online_on_target.items() if not self._is_probe(key)}
        self.trace.online_on_target = found
        if not found:
            return
        named = parameter_names(self._parameters[number] for number in found if number in self._parameters)
        self.trace.online_on_target = {
            named[id(self._parameters[key])] if key in self._parameters else key: place for key, place in found.items()
        }

    def _is_probe(self, key: str) -> bool:
        return key in self._parameters and self._terms.apart([id(self._parameters[key])])

    def enter_teacher(self, inputs: list[Tensor]) -> None:
        """Note the teacher's inputs; one computed with trained parameters is a finding."""
        self._lent = [(tensor, self._origins.of(tensor)) for tensor in inputs]
        for tensor, origin in self._lent:
            if origin & FROM_STUDENT:
                for name in self._origins.names(tensor) or ("what feeds the teacher",):
                    self.trace.online_on_target.setdefault(name, caller())
        for tensor in inputs:
            self._origins.put(tensor, FROM_TEACHER)

    def leave_teacher(self, outputs: list[Tensor]) -> None:
        """Note that these tensors are the teacher's output."""
        for tensor, origin in self._lent:
            self._origins.put(tensor, origin)
        self._lent = []
        for tensor in outputs:
            self._origins.put(tensor, FROM_TEACHER)

    def mark_student(self, outputs: list[Tensor]) -> None:
        """Note that these tensors are the student's output."""
        for tensor in outputs:
            self._origins.put(tensor, FROM_STUDENT)

    def forget(self) -> None:
        """Drop what is known of values: after a backward pass nothing of the forward is left."""
        self._origins.clear()

    def is_target(self, tensors: list[Tensor]) -> bool:
        """Return whether all of these were computed from the teacher's output alone."""
        return all(self._origins.of(tensor) == FROM_TEACHER for tensor in tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._active:
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        try:
            self._note(func, args, kwargs, result)
        except Exception as error:  # noqa: BLE001  the audited program must not suffer
            self._active = False
            self.error = error
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        written = self._written.get(func)
        if written is None:
            written = self._written[func] = _writes(func)
        if written:
            self._note_writes(func, written, args)
        if torch._C._current_graph_task_id() == -1 and not self._log.in_step:
            self._follow(args, kwargs, result, func)

    def _note_writes(self, func: Any, written: tuple[int, ...], args: Any) -> None:
        for position in written:
            for tensor in _flat(args[position]) if position < len(args) else ():
                place = _storage(tensor)
                pair = self._teacher.get(place)
                if pair is not None and _storage(pair.teacher) == place:  # not memory that was freed and used again
                    with suspended_modes():
                        sample = self._networks.sampler.one(pair.name, pair.teacher)
                    step, events = self._log.recording.steps, self._log.recording.events
                    operation = func.overloadpacket.__name__
                    self._note_side(step, "teacher")
                    write = Write(step, len(events), pair.name, operation, caller(), sample, stack())
                    self.trace.writes.append(write)
                elif place in self._counters and not self._log.in_teacher:
                    self._note_counter(self._counters[place])
                elif place in self._student and not self._log.in_step:
                    self.trace.student_writes.setdefault(self._student[place].name, caller())
                    self._note_side(self._log.recording.steps, "student")

    def _note_counter(self, pair: TensorPair) -> None:
        """Note what an integer buffer of the teacher is after a write that was not its own forward's."""
        with suspended_modes():
            same = pair.student is not None and torch.equal(pair.teacher, pair.student)
            found = (
                float(pair.teacher.flatten()[0]),
                float(pair.student.flatten()[0]) if pair.student is not None else 0,
            )
        if same:
            self.trace.counters.pop(pair.name, None)
        else:
            self.trace.counters[pair.name] = (*found, caller())

    def _note_side(self, step: int, side: str) -> None:
        """Note whose turn it is; teacher, student, teacher between two steps is one update that writes to both."""
        if not self._sides or self._sides[-1] != (step, side):
            self._sides.append((step, side))
        last = self._sides[-3:]
        if [side for _, side in last] == ["teacher", "student", "teacher"] and len({step for step, _ in last}) == 1:
            self.trace.interleaved = True

    def _follow(self, args: Any, kwargs: Any, result: Any, func: Any) -> None:
        """Pass on where values come from; note operations of trained parameters on the target branch."""
        inputs = _flat((args, kwargs)) if kwargs else _flat(args)
        origin = 0
        names: tuple[str, ...] = ()
        trained: list[str] = []
        for tensor in inputs:
            place = _storage(tensor)
            origin |= self._origins.of(tensor)
            names += self._origins.names(tensor)
            if place in self._trained:
                trained.append(self._trained[place])
        if trained and not _is_view(func):
            if origin == FROM_TEACHER:
                for name in trained:
                    self.trace.online_on_target.setdefault(name, caller())
            origin = origin or FROM_STUDENT
            names += tuple(trained)
        if origin == FROM_TEACHER | FROM_STUDENT and names and self.trace.online_on_target:
            self._note_meeting(inputs)
        for tensor in _flat(result):
            place = _storage(tensor)
            if place in self._trained or place in self._teacher:
                continue
            self._origins.put(tensor, origin, names)

    def _note_meeting(self, inputs: list[Tensor]) -> None:
        """Note trained tensors of the target branch whose result is compared with the student's, term by term."""
        whole = [tensor for tensor in inputs if tensor.numel() > 1]
        if any(self._origins.of(tensor) & FROM_STUDENT for tensor in whole):
            for tensor in whole:
                if self._origins.of(tensor) & FROM_TEACHER:
                    met = (self._parameters[name] for name in self._origins.names(tensor) if name in self._parameters)
                    self._terms.met.update(map(id, met))


class _Origins:
    """What the values in each storage depend on.

    A storage is known by its address, and a weak reference keeps the address from being given to another one:
    tensors that come from outside (a loader's, numpy's) pass no operation that could tell old from new.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, StorageWeakRef, tuple[str, ...]]] = {}

    def of(self, tensor: Tensor) -> int:
        known = self._known.get(_storage(tensor))
        return known[0] if known is not None else 0

    def names(self, tensor: Tensor) -> tuple[str, ...]:
        """Return which trained tensors the values were computed with, a few of them."""
        known = self._known.get(_storage(tensor))
        return known[2] if known is not None else ()

    def put(self, tensor: Tensor, origin: int, names: tuple[str, ...] = ()) -> None:
        place = _storage(tensor)
        if not origin or place <= 0:
            self._known.pop(place, None)
            return
        known = self._known.get(place)
        reference = known[1] if known is not None else StorageWeakRef(tensor.untyped_storage())
        self._known[place] = (origin, reference, tuple(dict.fromkeys(names))[:NAMES])

    def clear(self) -> None:
        self._known.clear()


def _writes(func: Any) -> tuple[int, ...]:
    arguments = func._schema.arguments
    return tuple(n for n, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


def _is_view(func: Any) -> bool:
    return any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)


def _storage(tensor: Tensor | None) -> int:
    if tensor is None:
        return 0
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # meta and sparse tensors
        return -1


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _flat(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _flat(item)]
    return []
