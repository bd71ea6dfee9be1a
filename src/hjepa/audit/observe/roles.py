"""What each module is in the loop, and whether another module has taken the teacher's place."""

import weakref

from torch import nn

from hjepa.audit.observe.event_log import ENCLOSING, NEITHER, STUDENT, TEACHER, TRAINED, EventLog
from hjepa.audit.observe.program.tensor_pairs import Part, Shadow, live_modules, plain_name
from hjepa.audit.observe.recording import Kind


class Roles:
    """Knows every module that was called, and notices a teacher that is replaced."""

    def __init__(self, log: EventLog) -> None:
        self._log, self._networks = log, log.networks
        self._known: dict[int, tuple[weakref.ref[nn.Module], str]] = {}
        self._replacement_candidates: dict[int, weakref.ref[nn.Module]] = {}
        kinds = {type(part.teacher) for part in self._networks.parts}
        self._preexisting_modules = [weakref.ref(module) for module in live_modules() if type(module) in kinds]
        self.teacher_ran = self.student_ran = False  # since the last optimizer step
        self._teacher_runs: bool | None = None  # in each step so far; None: none has been seen from its beginning
        self._assign()

    def _assign(self) -> None:
        """Give student, teacher and all that is inside them their roles."""
        self._known.clear()
        for part in self._networks.parts:
            for role, root in ((STUDENT, part.student), (TEACHER, part.teacher)):
                for module in root.modules():
                    self._known.setdefault(id(module), (weakref.ref(module), role))

    def of(self, module: nn.Module) -> str:
        """Return what a module is."""
        known = self._known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        role = self._new_role(module)
        self._known[id(module)] = (weakref.ref(module), role)
        return role

    def _new_role(self, module: nn.Module) -> str:
        inside = {id(child) for child in module.modules()}
        parts = self._networks.parts
        if any(id(part.student) in inside or id(part.teacher) in inside for part in parts):
            return ENCLOSING
        for number, part in enumerate(() if self._was_there(module) else parts):
            if _same_kind(module, part.teacher) and not _same_parameters(module, part.student):
                trained = {id(p) for p in self._networks.optimized()}
                if not any(id(p) in trained for p in module.parameters()):
                    self._replacement_candidates[number] = weakref.ref(module)
                    return NEITHER
        return TRAINED if any(p.requires_grad for p in module.parameters()) else NEITHER

    def _was_there(self, module: nn.Module) -> bool:
        """Return whether the module is one that stood beside the teacher when the audit began."""
        return any(reference() is module for reference in self._preexisting_modules)

    # ------------------------------------------------------------------ replacements

    def notice_new_parameters(self) -> None:
        """Notice a teacher whose parameters are other objects than before (assigned anew)."""
        parts = self._networks.parts
        if any(isinstance(part.teacher, Shadow) for part in parts):
            return  # new tensors in each update are its way
        now = {id(p) for part in parts for p in part.teacher.parameters()}
        if now != self._networks.teacher_ids:
            self._replaced("its parameters")

    def adopt_replacement(self) -> None:
        """Take a new look-alike that ran for the teacher if the teacher did not run before this step.

        A second average or a copy that is evaluated runs beside the teacher, not in its place; and where the
        teacher runs only now and then, that it did not run says nothing.
        """
        candidates, self._replacement_candidates = self._replacement_candidates, {}
        modules = {number: module for number, reference in candidates.items() if (module := reference()) is not None}
        if self.student_ran and not self.teacher_ran and self._teacher_runs is not False and modules:
            for number, module in modules.items():
                before = self._networks.parts[number]
                self._networks.parts[number] = Part(before.student, module, before.name)
                self._replaced(before.name or type(module).__name__)
        elif self.student_ran:
            self._teacher_runs = self.teacher_ran and self._teacher_runs is not False
        self.teacher_ran = self.student_ran = False

    def _replaced(self, name: str) -> None:
        self._log.record(Kind.REPLACED, snapshot=False, name=name)
        self._networks.pair()
        self._assign()
        self._log.last_snapshot = None


def _same_kind(module: nn.Module, teacher: nn.Module) -> bool:
    if type(module) is not type(teacher) or module is teacher:
        return False
    shapes = [{plain_name(n): p.shape for n, p in m.named_parameters()} for m in (module, teacher)]
    return bool(shapes[0]) and shapes[0] == shapes[1]


def _same_parameters(module: nn.Module, other: nn.Module) -> bool:
    return {id(p) for p in module.parameters()} <= {id(p) for p in other.parameters()}
