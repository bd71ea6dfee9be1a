"""F: the arithmetic of the update, and which tensor follows which."""

import torch
from torch import Tensor

from hjepa.audit.judge.context import Case, Outcome, digits, failed, noted, passed, rule, unchecked, warned
from hjepa.audit.judge.findings import Severity
from hjepa.audit.measure.measurement import TensorFit
from hjepa.audit.measure.walk import Update
from hjepa.audit.observe.recording import Event, Kind, Look

NO_UPDATE = "no update was seen"
LOW = (torch.bfloat16, torch.float16)
TREATED = {"own": "does not touch", "copy": "copies", "ema": "averages"}


def _bounds(case: Case) -> tuple[Look, Look] | None:
    looks = [event.look for event in case.recording.events if event.look is not None]
    return (looks[0], looks[-1]) if looks else None


def hard_copies(case: Case) -> int:
    """Return how many updates left the teacher equal to the student, bit for bit."""
    count = 0
    for update in case.updates:
        look = update.after.look
        if look is not None and update.fit is not None and update.fit.momentum < 0.5:
            count += update.source is not None and bool(torch.equal(look.teacher, update.source))
    return count


@rule(
    "swapped-coefficients", "F1", Severity.CRITICAL,
    meaning="The teacher is almost the student, so the targets run with what is trained: nothing holds them back "
    "from collapse.",
    remedy="- t.mul_(1 - m).add_(m * s)\n+ t.mul_(m).add_((1 - m) * s)      # m, near 1, belongs to the teacher",
)  # fmt: skip
def swapped_coefficients(case: Case) -> Outcome:
    """F1, F2: the measured momentum is 1 minus the declared one.  Signature: about 0.004 for 0.996."""
    fits = [u.fit for u in case.fitted[1:] or case.fitted if u.fit is not None]
    if not fits:
        return unchecked(NO_UPDATE)
    middle = sorted(fit.momentum for fit in fits)[len(fits) // 2]
    declared = case.spec.momentum(case.start_step) if case.spec.prescribed else None
    if 1e-6 < middle < 0.2 and (declared is None or declared > 0.5):
        return failed(
            f"the teacher's share is {digits(middle)}",
            f"about {digits(1 - middle)}" if declared is None else f"{digits(declared)}",
            location=case.update_location(),
            momentum=middle,
        )
    return passed(f"the teacher's share is {digits(middle)}", momentum=middle)


def _decayed(case: Case) -> list[str]:
    """Return the tensors that were only multiplied with a number below 1."""
    if case.only_decays:
        return [pair.name for pair in case.tensors.pairs]
    return [fit.name for fit in case.measured.tensors if fit.decays and fit.student_moved and _odd(fit)]


@rule(
    "update-without-student", "F10", Severity.CRITICAL,
    meaning="The teacher forgets and learns nothing: its weights shrink towards zero, and the targets with them.",
    remedy="- t.mul_(m).add((1 - m) * s)       # add() returns a sum that nobody keeps\n"
    "+ t.mul_(m).add_((1 - m) * s)      # add_() writes it into the teacher",
)  # fmt: skip
def update_without_student(case: Case) -> Outcome:
    """F10: ``t1 = m t0``.  Signature: the coefficient of the teacher is below 1, that of the student 0."""
    if not case.updates:
        return unchecked(NO_UPDATE)
    decays = [update.decay for update in case.updates if update.decay is not None]
    names = _decayed(case)
    if case.only_decays:
        middle = sorted(decays)[len(decays) // 2]
        return failed(
            f"in {len(decays)} of {len(case.updates)} updates the teacher was multiplied by {digits(middle)} and "
            "nothing of the student was added",
            "m times the teacher plus (1 - m) times the student",
            location=case.update_location(),
            factor=middle, updates=len(decays),
        )  # fmt: skip
    if names:
        return failed(
            f"{len(names)} of {len(case.measured.tensors)} tensors only shrink while their partners move, such as "
            f"{names[0]}",
            "m times the teacher plus (1 - m) times the student, in every tensor",
            location=case.update_location(),
            tensors=names[:20],
        )
    return passed("every update takes in the student")


@rule(
    "hard-copy", "F3", Severity.CRITICAL,
    meaning="The effective momentum is 0: the teacher is the student of the same step, whatever the log says, and the "
    "run is self-distillation without an average.",
    remedy="- teacher.load_state_dict(student.state_dict())\n"
    "+ t.mul_(m).add_((1 - m) * s)      # for each pair of parameters",
)  # fmt: skip
def hard_copy(case: Case) -> Outcome:
    """F3: the teacher equals the student after the update, bit for bit."""
    if not case.updates:
        looks = _bounds(case)
        if looks and case.measured.effective >= 2 and torch.equal(looks[1].teacher, looks[1].student):
            return unchecked("teacher and student are the same at every look: see aliased-teacher")
        return unchecked(NO_UPDATE)
    copies = hard_copies(case)
    if copies >= max(2, len(case.updates) / 2):
        return failed(
            f"after {copies} of {len(case.updates)} updates the teacher equals the student bit for bit",
            "a weighted average",
            location=case.update_location(),
            updates=copies,
        )
    if copies:
        return noted(f"{copies} of {len(case.updates)} updates copied the student (a warm-up?)", updates=copies)
    return passed("no update copied the student")


@rule(
    "student-modified", "F4", Severity.MAJOR,
    meaning="Something writes to the network that is being trained, behind its optimizer's back.",
    remedy="- s.mul_(...)      # inside the update\n  compute the average into the teacher only",
)  # fmt: skip
def student_modified(case: Case) -> Outcome:
    """F4: the update changes the student, or the teacher's weights stay in it.

    Signature: the student is another one when it is trained than at the end of its last step. What is put back
    before that was lent; what follows neither the teacher nor one factor is a constraint, such as prototypes that
    are normalised, unless tracing saw the student written to between two writes of one update.
    """
    changes, steps = case.measured.changes, case.measured.steps
    places = sorted({place for place in case.recording.trace.student_writes.values() if place})
    place = places[0] if places else None
    copied = [change.step for change in changes if change.kind == "copied"]
    if copied:
        shown = ", ".join(map(str, copied[:8]))
        return failed(
            f"after step{'s' * (len(copied) > 1)} {shown} the teacher was copied into the student and stayed there: "
            "training went on from the average",
            "the student's own weights put back before it is trained again",
            location=place,
            remedy="+ kept = {name: p.clone() for name, p in student.state_dict().items()}\n"
            "  student.load_state_dict(teacher.state_dict());  validate(student)\n"
            "+ student.load_state_dict(kept)",
            steps=copied,
        )  # fmt: skip
    kinds = [change.kind for change in changes]
    often = max(2, steps / 4)
    if kinds.count("pulled") + kinds.count("scaled") >= often or (case.recording.trace.interleaved and changes):
        how = "towards the teacher" if kinds.count("pulled") > len(kinds) / 2 else (
            "by one factor" if kinds.count("scaled") > len(kinds) / 2 else "inside the update"
        )  # fmt: skip
        return failed(
            f"the student was changed {len(changes)} times outside its optimizer's {steps} steps, {how}",
            "the student changes in the steps of its optimizer only",
            location=place or case.update_location(),
            changes=len(changes),
        )
    lent = f"; its weights were exchanged and put back {case.measured.lent} times" if case.measured.lent else ""
    if len(changes) >= often:
        return noted(
            f"the student is also changed between its step and its next forward ({len(changes)} times, such as "
            f"prototypes that are normalised); the update is judged by the student as it was then{lent}",
            changes=len(changes),
        )
    return passed(f"the student changed in the steps of its optimizer only{lent}")


LOST = "the steps of all tensors are lost in rounding: watch more steps, or steps with a larger learning rate"


def _judged(case: Case) -> tuple[list[TensorFit], str]:
    """Return the tensors whose partners moved by more than rounding hides, and words on those by less."""
    moved = [fit for fit in case.measured.tensors if fit.student_moved]
    judged = [fit for fit in moved if fit.visible]
    lost = len(moved) - len(judged)
    return judged, f"; {lost} are not told, as their steps are lost in rounding" if lost else ""


def _odd(fit: TensorFit) -> bool:
    """Return whether the tensor moved, but not towards its partner."""
    return fit.moved and fit.chi > 20 and fit.rest > 0.1


@rule(
    "mispaired-parameters", "F5", Severity.CRITICAL,
    meaning="Tensors of the teacher average the wrong tensors of the student, so the teacher is no average of it.",
    remedy="- for t, s in zip(teacher.parameters(), student.parameters())\n"
    "+ mine = dict(student.named_parameters())\n+ for name, t in teacher.named_parameters():  s = mine[name]",
)  # fmt: skip
def mispaired_parameters(case: Case) -> Outcome:
    """F5, F6: tensors follow the wrong partner.

    Signature: their change is not explained by the student's tensor of the same name, while others' is.
    """
    if not case.updates:
        return unchecked(NO_UPDATE)
    judged, lost = _judged(case)
    odd = [fit for fit in judged if _odd(fit) and not fit.decays]
    if case.only_decays:
        return unchecked("the teacher only decays: see update-without-student")
    if not judged:
        return unchecked(LOST if lost else "no tensor of the student moved")
    if odd and not _other_writer(case) and not _uneven(case):
        return failed(
            f"{len(odd)} of {len(judged)} tensors do not follow their partner, such as {odd[0].name}",
            "every tensor follows the student's tensor of the same name",
            location=case.update_location(),
            tensors=[fit.name for fit in odd[:20]],
        )
    followers = sum(fit.moved for fit in judged)
    return passed(f"all {followers} tensors that moved follow the student's tensor of the same name{lost}")


def _other_writer(case: Case) -> bool:
    """Return whether something else explains a teacher that does not follow: see the rules for it."""
    return bool(
        case.measured.by_optimizer
        or any(event.kind == "teacher replaced" for event in case.recording.events)
        or hard_copies(case)
        or (case.parts and any(p.dtype in LOW for part in case.parts for p in part.teacher.parameters()))
    )


@rule(
    "partial-update", "T11", Severity.MAJOR,
    meaning="Part of the teacher stays at its start while the rest follows, so targets come from a network that never "
    "existed.",
    remedy="  average every parameter that the teacher's forward uses, heads included",
)  # fmt: skip
def partial_update(case: Case) -> Outcome:
    """T11, F11: part of the teacher never moves.  Signature: tensors at rest whose partners move."""
    if not case.updates:
        return unchecked(NO_UPDATE)
    if case.only_decays:
        return unchecked("the teacher only decays: see update-without-student")
    judged, lost = _judged(case)
    still = [fit for fit in judged if not fit.moved and not _lost_in_rounding(case, fit)]
    alone = case.tensors.teacher_only
    if still:
        return failed(
            f"{len(still)} of {len(judged)} tensors never moved although their partners did, such as {still[0].name}",
            "every tensor of the teacher is averaged",
            location=case.update_location(),
            tensors=[fit.name for fit in still[:20]],
        )
    if alone:
        return warned(
            f"{len(alone)} tensors of the teacher have no partner in the student, such as {alone[0]}",
            "a partner for every tensor",
            tensors=alone[:20],
        )
    if lost and not judged:
        return unchecked(LOST)
    return passed(f"all {len(judged)} tensors whose partners moved moved too{lost}")


def _lost_in_rounding(case: Case, fit: TensorFit) -> bool:
    pair = next((pair for pair in case.tensors.pairs if pair.name == fit.name), None)
    return pair is not None and pair.teacher.dtype in LOW


@rule(
    "tied-weights-updated-twice", "F7", Severity.MINOR,
    meaning="A tensor that stands under two names is averaged twice in each update: its momentum is squared.",
    remedy="- for name, t in teacher.state_dict().items()\n"
    "+ for name, t in teacher.named_parameters()      # names tied ones once",
)  # fmt: skip
def tied_weights_updated_twice(case: Case) -> Outcome:
    """F7: momentum squared on shared tensors only.  Signature: twice the step of the others."""
    tied = {pair.name for pair in case.tensors.pairs if pair.tied}
    if not tied:
        return passed("the teacher has no tied weights")
    if not case.updates:
        return unchecked(NO_UPDATE)
    fits = [fit for fit in case.measured.tensors if fit.name in tied and fit.moved]
    twice = [fit for fit in fits if fit.ratio > 1.5 and fit.error < 0.2]
    if twice:
        return failed(
            f"{twice[0].name} makes {twice[0].ratio:.2f} times the step of the other tensors",
            "one average for each tensor",
            location=case.update_location(),
            tensors=[fit.name for fit in twice], ratio=twice[0].ratio,
        )  # fmt: skip
    return passed(f"{len(fits)} tied tensors make the same step as the others")


@rule(
    "precision-underflow", "F8", Severity.MAJOR,
    meaning="The number format of the teacher is too coarse for steps of (1 - momentum) times the difference: they are "
    "rounded away or the coefficients no longer sum to 1, so the teacher freezes or drifts silently.",
    remedy="+ keep the teacher (or a master copy of it) in float32, and the momentum a Python number\n"
    "+ let the coefficients of teacher and student be momentum and 1 - momentum",
)  # fmt: skip
def precision_underflow(case: Case) -> Outcome:
    """F8: the update is lost in the teacher's format, or the coefficients do not sum to 1.

    Signature: unchanged coordinates although the student differs; ``s`` of the full fit is not 0.
    """
    dtypes = {pair.teacher.dtype for pair in case.tensors.pairs}
    low = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes if dtype in LOW)
    rounded = _uneven(case)
    if rounded and not _other_writer(case):
        excess = rounded[0]
        return failed(
            f"the coefficients sum to {digits(1 + excess)}, not 1: the teacher's weights grow or shrink in every step",
            "momentum + (1 - momentum) = 1",
            location=case.update_location(),
            excess=excess,
        )
    if not low:
        return passed(f"the teacher is kept in {', '.join(sorted(str(d).removeprefix('torch.') for d in dtypes))}")
    lost, whole = _lost(case)
    if whole and lost > 0.3 * whole:
        return failed(
            f"{100 * lost / whole:.0f} % of the coordinates where teacher and student differ did not move "
            f"({', '.join(low)} teacher)",
            "every coordinate moves",
            location=case.update_location(),
            unchanged=lost / whole,
        )
    return warned(f"the teacher is kept in {', '.join(low)}", "float32", dtypes=low)


def _uneven(case: Case) -> list[float]:
    """Return by how much the coefficients miss a sum of 1, when they do in most updates; else an empty list."""
    found = [
        u.fit.excess
        for u in case.updates
        if u.fit is not None and u.fit.explains and abs(u.fit.excess) > max(1e-5, 6 * u.fit.excess_error)
    ]
    return found if len(found) >= max(2, len(case.updates) / 2) else []


def _lost(case: Case) -> tuple[int, int]:
    """Return (unmoved, all) coordinates where teacher and student differ, between first and last look."""
    looks = _bounds(case)
    if looks is None or len(looks[0].teacher) != len(looks[1].teacher):
        return 0, 0
    first, last = looks
    differs = first.teacher != last.student
    return int((differs & (first.teacher == last.teacher)).sum()), int(differs.sum())


@rule(
    "buffers-mishandled", "F9", Severity.MAJOR,
    meaning="Statistics of the teacher that are never filled, or counters that are averaged, make its output wrong as "
    "soon as it is evaluated with them.",
    remedy="+ for name, b in teacher.named_buffers():  copy the student's integers; average or copy its statistics",
)  # fmt: skip
def buffers_mishandled(case: Case) -> Outcome:
    """F9: integer buffers averaged, normalisation statistics left behind.

    Signature: integers that equal neither their own past nor the student; running statistics of a teacher
    in evaluation mode that never move while the student's do.
    """
    buffers = case.tensors.buffers
    if not buffers:
        return passed("the teacher has no buffers")
    looks = [event.look for event in case.recording.events if event.look is not None]
    if len(looks) < 2:
        return unchecked("fewer than two looks")
    first, last = looks[0], looks[-1]
    for name, (teacher, student, place) in case.recording.trace.counters.items():
        return failed(
            f"an update wrote {teacher:g} into the integer buffer {name} while the student's was {student:g}: counters "
            "cannot be averaged",
            "a copy of the student's, or its own count",
            location=place,
            buffer=name,
        )
    for pair in buffers:
        part = pair.sampled
        before, after, mine = first.teacher_buffers[part], last.teacher_buffers[part], last.student_buffers[part]
        moves = not torch.equal(first.student_buffers[part], mine)
        if not pair.teacher.is_floating_point():
            averaged = _averaged_count(case, part)
            if averaged is not None:
                old, new, student = averaged
                return failed(
                    f"the integer buffer {pair.name} went from {old:g} to {new:g} in an update while the student's was "
                    f"{student:g}: counters cannot be averaged",
                    "a copy of the student's, or its own count",
                    location=case.update_location(),
                    buffer=pair.name,
                )
        elif moves and torch.equal(before, after) and "running" in pair.name and _in_evaluation(case):
            return failed(
                f"{pair.name} never moved while the student's did, and the teacher "
                "is in evaluation mode, which uses it",
                "statistics that follow the student's",
                location=case.update_location(),
                buffer=pair.name,
            )
    said = f"{len(buffers)} buffers keep up"
    others = [words for words in (_other_treatment(case), _other_mode(case)) if words]
    return noted("; ".join([said, *others])) if others else passed(said)


def _other_treatment(case: Case) -> str:
    """Return words on statistics that the update treats in another way than prescribed, if it does."""
    parts = [pair.sampled for pair in case.tensors.buffers if pair.teacher.is_floating_point()]
    touched, copied, seen = 0, 0, 0
    for update in case.measured.regular:
        before, after = update.before.look, update.after.look
        if before is None or after is None or not parts:
            continue
        old, new, mine = (
            torch.cat([values[part] for part in parts])
            for values in (before.teacher_buffers, after.teacher_buffers, after.student_buffers)
        )
        if not torch.equal(old, mine):  # else nothing could be averaged or copied
            own = torch.equal(old, new) or _moved_by_itself(update, old, new, mine)
            seen, touched = seen + 1, touched + (not own)
            copied += torch.equal(new, mine)
    if not seen or not case.spec.prescribed or case.spec.buffers == "any":
        return ""
    does = "own" if not touched else "copy" if copied == touched else "ema"
    wanted = "own" if case.spec.buffers == "none" else case.spec.buffers
    if does == wanted:
        return ""
    return f"the update {TREATED[does]} floating-point buffers, {case.spec.name} {TREATED[wanted]} them"


def _moved_by_itself(update: Update, old: Tensor, new: Tensor, mine: Tensor) -> bool:
    """Return whether the teacher's own forward, in training mode, explains statistics that no average does."""
    if update.before.kind is not Kind.TEACHER_FORWARD or torch.equal(new, mine) or update.fit is None:
        return False
    m = update.fit.momentum
    return not torch.allclose(new, m * old + (1 - m) * mine, rtol=1e-4, atol=1e-7)


def _other_mode(case: Case) -> str:
    """Return words on normalisation that runs in another mode in the teacher than prescribed, if it does."""
    modules = [module for part in case.parts for module in part.teacher.modules()]
    places = [n for n, module in enumerate(modules) if getattr(module, "running_mean", None) is not None]
    looks = [e.look for e in case.recording.events if e.kind == "teacher forward" and e.look is not None]
    modes = {look.teacher_modes[n] for look in looks for n in places if len(look.teacher_modes) == len(modules)}
    if case.spec.batchnorm == "any" or not case.spec.prescribed or len(modes) != 1:
        return ""
    mode = "train" if modes.pop() else "eval"
    if mode == case.spec.batchnorm:
        return ""
    return f"its normalisation runs in {mode} mode, that of {case.spec.name} in {case.spec.batchnorm} mode"


def _averaged_count(case: Case, part: slice) -> tuple[float, float, float] | None:
    """Return (before, after, the student's) of an integer buffer that an update changed into neither, else None.

    Where the teacher's own forward ran in training mode meanwhile, it counts by itself.
    """
    before: Event | None = None
    ran = False
    for event in case.recording.events:
        ran |= event.kind is Kind.TEACHER_FORWARD and before is not None and event.look is None
        if event.look is None:
            continue
        if before is not None and before.look is not None:
            a, b = before.look, event.look
            ran |= before.kind is Kind.TEACHER_FORWARD
            old, new = a.teacher_buffers[part], b.teacher_buffers[part]
            mine = (a.student_buffers[part], b.student_buffers[part])
            counts = ran and any(a.teacher_modes) and bool((new >= old).all()) and bool((new - old <= 8).all())
            if not torch.equal(old, new) and not any(torch.equal(new, one) for one in mine) and not counts:
                return float(old[0]), float(new[0]), float(mine[1][0])
        before, ran = event, False
    return None


def _in_evaluation(case: Case) -> bool:
    looks = [e.look for e in case.recording.events if e.kind == "teacher forward" and e.look is not None]
    return bool(looks) and not any(any(look.teacher_modes) for look in looks)
