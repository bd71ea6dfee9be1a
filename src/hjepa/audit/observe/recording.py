"""What the observer saw: events in order, some with samples of the weights.  Plain data."""

import enum
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class Kind(enum.StrEnum):
    """What happened.  The letters are those of the event model (docs/audit.md)."""

    TEACHER_FORWARD = "teacher forward"  # FT begins
    TEACHER_END = "teacher forward ends"
    STUDENT_FORWARD = "student forward"  # FS begins
    STUDENT_END = "student forward ends"
    PREDICTOR = "predictor forward"  # a trained module outside both got token positions
    ONLINE_ON_TARGET = "trained module on the target branch"
    PROBE = "probe of the teacher"  # trained on its output by a term of the loss without the student
    BACKWARD = "backward"  # B begins
    BACKWARD_END = "backward ends"
    OTHER_BACKWARD = "backward of other networks"  # the student has no part in it
    CLIP = "gradient clipping"
    UNSCALE = "unscale"
    MODE = "student put into evaluation mode"
    SCALER_STEP = "scaler step"
    STEP = "optimizer step"  # S begins
    STEP_END = "optimizer step ends"
    REPLACED = "teacher replaced"
    END = "end of the audit"


@dataclass(frozen=True)
class Snapshot:
    """Samples of both networks at one instant, float64 ``[n]``, and the modes of their modules."""

    teacher: Tensor
    student: Tensor
    teacher_buffers: Tensor
    student_buffers: Tensor
    teacher_modes: tuple[bool, ...]
    student_modes: tuple[bool, ...]


@dataclass
class Event:
    """One event; ``step`` counts optimizer steps finished before it."""

    kind: Kind
    step: int
    location: str | None = None
    snapshot: Snapshot | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Write:
    """One write to a teacher tensor, seen by tracing."""

    step: int
    after: int  # number of events recorded before it
    tensor: str
    operation: str
    location: str | None
    sample: Tensor  # float64 samples of the tensor afterwards
    stack: tuple[tuple[str, int, int], ...] = ()


@dataclass
class Trace:
    """What tracing one or more steps showed."""

    first_step: int = -1
    last_step: int = -1
    writes: list[Write] = field(default_factory=list)
    online_on_target: dict[str, str | None] = field(default_factory=dict)  # parameter -> location
    student_writes: dict[str, str | None] = field(default_factory=dict)  # outside the optimizer step
    counters: dict[str, tuple[float, float, str | None]] = field(default_factory=dict)
    """Integer buffers that an update wrote to: the teacher's value, the student's, where."""
    interleaved: bool = False  # the student was written to between two writes of one update of the teacher


@dataclass
class Unheld:
    """A parameter that got gradients while no optimizer held it and nothing else moved it."""

    name: str  # as in the program
    of_student: bool
    location: str | None  # of the backward pass


@dataclass
class Recording:
    """Everything that was seen of one subject."""

    events: list[Event] = field(default_factory=list)
    trace: Trace = field(default_factory=Trace)
    steps: int = 0  # optimizer steps watched
    finished: bool = False  # the program ended training by itself, inside the window
    from_start: bool = True  # watched before the first optimizer step
    missed: int = 0  # optimizer steps before the first that was watched
    optimizers: list[str] = field(default_factory=list)  # classes of those that train the student, the largest first
    unheld: list[Unheld] | None = None  # None: no loss was looked into
    problems: list[str] = field(default_factory=list)  # what could not be observed, in words
