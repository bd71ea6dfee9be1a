"""G: gradients that go where they must not, or are the wrong size.  D: several processes."""

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.rule import Outcome, counted, failed, passed, rule, unchecked, warned
from hjepa.audit.observe.recording import Event, Kind

LARGE = 1_000_000


@rule(
    "gradient-reaches-teacher", "G1", Severity.CRITICAL,
    meaning="The teacher is trained by gradient descent: both networks can collapse to a constant, and the teacher is "
    "no longer an average of the student.",
    remedy="+ with torch.no_grad():  target = teacher(x)",
)  # fmt: skip
def gradient_reaches_teacher(audit: AuditContext) -> Outcome:
    """G1: a parameter of the teacher has a gradient after the backward pass."""
    steps = [event for event in audit.events(Kind.STEP) if "teacher_gradients" in event.facts]
    if not steps:
        return unchecked("no optimizer step of the student was observed")
    hit = next((event for event in steps if event.facts["teacher_gradients"]), None)
    if hit is not None:
        return failed(
            f"{hit.facts['teacher_gradients']} of {hit.facts['teacher_tensors']} teacher tensors have a gradient at "
            f"step {hit.step}",
            "no gradients in the teacher",
            location=audit.location(Kind.TEACHER_FORWARD),
            tensors=hit.facts["teacher_gradients"],
        )
    return passed(f"no teacher tensor had a gradient in {counted(len(steps), 'step')}")


@rule(
    "target-not-detached", "G2", Severity.CRITICAL,
    meaning="Trained weights can lower the loss by changing the targets, most easily by collapsing.",
    remedy="- target = teacher(online_part(x))\n+ with torch.no_grad():  target = teacher(x)",
)  # fmt: skip
def target_not_detached(audit: AuditContext) -> Outcome:
    """G2: the target carries a graph into online weights, and gradient flows through it."""
    ends = audit.events(Kind.TEACHER_END)
    if not ends:
        return unchecked("no teacher forward was observed")
    for event in audit.events(Kind.TEACHER_END, Kind.ONLINE_ON_TARGET):
        leaves = event.facts.get("leaves") or {}
        if event.facts.get("reached") and leaves.get("trained"):
            return failed(
                f"gradients flow through the targets into {counted(leaves['trained'], 'trained tensor')}",
                "detached targets",
                location=audit.location(Kind.TEACHER_FORWARD),
                tensors=leaves["trained"],
            )
    graphs = sum(bool(event.facts.get("graph")) for event in ends)
    return passed(
        "no gradient flowed into the teacher's output"
        + (
            f" ({counted(graphs, 'forward')} built a graph that was detached later, which only costs memory)"
            if graphs
            else ""
        )
    )


@rule(
    "clip-before-unscale", "G5", Severity.MINOR,
    meaning="The clipping threshold is compared with gradients that are still multiplied by the loss scale, so nearly "
    "every step is clipped to almost nothing.",
    remedy="+ scaler.unscale_(optimizer)\n"
    "  torch.nn.utils.clip_grad_norm_(parameters, max_norm)\n  scaler.step(optimizer)",
)  # fmt: skip
def clip_before_unscale(audit: AuditContext) -> Outcome:
    """G5: clipping between backward and step of a gradient scaler without unscaling first."""
    scaled = [e for e in audit.events(Kind.SCALER_STEP) if e.facts.get("scale", 1.0) != 1.0]
    if not scaled:
        idle = (
            "the scale of the gradient scaler is 1"
            if audit.events(Kind.SCALER_STEP)
            else "no gradient scaler is in use"
        )
        return passed(idle)
    if not audit.events(Kind.CLIP):
        return passed("gradients are not clipped by torch.nn.utils")
    unscaled, hits = False, 0
    for event in audit.recording.events:
        if event.kind is Kind.UNSCALE:
            unscaled = True
        elif event.kind in (Kind.BACKWARD, Kind.STEP_END):
            unscaled = False
        elif event.kind is Kind.CLIP and not unscaled:
            hits += 1
    if hits:
        return failed(
            f"gradients were clipped {counted(hits, 'time')} while scaled by {scaled[0].facts['scale']:g}",
            "unscale_ before clipping",
            location=audit.location(Kind.CLIP),
            times=hits, scale=scaled[0].facts["scale"],
        )  # fmt: skip
    return passed("gradients were unscaled before clipping")


@rule(
    "clip-per-microbatch", "G7", Severity.MINOR,
    meaning="Clipping after every micro-batch also rescales the gradients accumulated so far, so earlier micro-batches "
    "count less and the step is smaller than that of one large batch.",
    remedy="- clip_grad_norm_(parameters, max_norm)      # after every backward()\n"
    "+ if this is the last micro-batch:  clip_grad_norm_(parameters, max_norm)",
)  # fmt: skip
def clip_per_microbatch(audit: AuditContext) -> Outcome:
    """G7: the student's gradients are clipped between two backward passes of one step, and not cleared after it."""
    if not audit.events(Kind.CLIP):
        return passed("gradients are not clipped by torch.nn.utils")
    steps = hits = clips = 0
    clipped: Event | None = None
    place: str | None = None
    for event in audit.recording.events:
        if event.kind is Kind.STEP_END:
            steps, hits, clips, clipped = steps + 1, hits + bool(clips), 0, None
        elif event.kind is Kind.CLIP and event.facts.get("student"):
            clipped = event
        elif event.kind is Kind.BACKWARD and clipped is not None:
            if not event.facts.get("cleared") and _same_place(audit, event):
                clips, place = clips + 1, place or clipped.location
            clipped = None
    if hits >= max(2, steps / 2):
        return failed(
            f"in {hits} of {steps} optimizer steps the gradients were clipped between two backward passes, with "
            f"{audit.measured.micro_batches:.0f} micro-batches",
            "clipping once, after the last micro-batch",
            location=place,
            steps_clipped=hits, micro_batches=audit.measured.micro_batches,
        )  # fmt: skip
    return passed("gradients are clipped only after the last backward pass of a step")


def _same_place(audit: AuditContext, event: Event) -> bool:
    """Return whether a backward pass comes from the same line as the one before it: micro-batches of one loss."""
    before = None
    for other in audit.events(Kind.BACKWARD):
        if other is event:
            break
        before = other
    return before is None or event.location is None or before.location == event.location


@rule(
    "accumulation-not-scaled", "G6", Severity.MINOR,
    meaning="k micro-batches add up to k times the gradient of one large batch, so the clipping threshold and the "
    "learning rate no longer have the intended effect.",
    remedy="- loss.backward()\n+ (loss / accumulation_steps).backward()",
)  # fmt: skip
def accumulation_not_scaled(audit: AuditContext) -> Outcome:
    """G6: with k micro-batches the criterion enters the loss with factor 1, not 1/k."""
    count = audit.measured.micro_batches
    if count < 2:
        return passed("gradients are not accumulated")
    scales = [e.facts["scale"] for e in audit.events(Kind.SCALER_STEP)]
    scale = scales[0] if scales else 1.0
    compared = [e.facts["criteria"] for e in audit.events(Kind.BACKWARD) if "criteria" in e.facts]
    factors = [c.factor / scale for criteria in compared for c in criteria if c.factor is not None]
    if not factors:
        return unchecked("the loss has no criterion that can be recognised (such as smooth L1 or MSE)")
    if len({tuple(sorted(c.name for c in criteria)) for criteria in compared}) > 1:
        return unchecked("the backward passes of a step belong to different losses, not to micro-batches of one loss")
    if _different_places(audit):
        return unchecked(
            "the backward passes of a step are at different places in the code: several losses, not micro-batches"
        )
    if _swaps_views(audit) or _targets_first(audit):
        return unchecked("the backward passes of a step are the halves of a symmetrised loss, not micro-batches")
    middle = sorted(factors)[len(factors) // 2]
    if abs(middle - 1) < 1e-3:
        return failed(
            f"with {count:.0f} micro-batches, the loss in each backward pass has a factor of {middle:.3g}",
            f"a factor of 1/{count:.0f}",
            location=audit.location(Kind.BACKWARD),
            factor=middle, micro_batches=count,
        )  # fmt: skip
    return passed(f"the loss in each of {count:.0f} backward passes has a factor of {middle:.3g}")


def _different_places(audit: AuditContext) -> bool:
    """Return whether the backward passes of a step come from different lines, in every step of which that is known."""
    steps: list[list[str]] = [[]]
    for event in audit.recording.events:
        if event.kind is Kind.STEP_END:
            steps.append([])
        elif event.kind is Kind.BACKWARD and event.location is not None:
            steps[-1].append(event.location)
    whole = [places for places in steps if len(places) > 1]
    return bool(whole) and all(len(set(places)) == len(places) for places in whole)


def _targets_first(audit: AuditContext) -> bool:
    """Return whether the targets of all backward passes of a step are made before the first of them.

    Micro-batches are there to hold one batch at a time; who holds all of them has the terms of one loss.
    """
    steps: list[tuple[int, int]] = []
    targets = passes = 0
    for event in audit.recording.events:
        if event.kind is Kind.STEP_END:
            steps.append((targets, passes))
            targets = passes = 0
        elif event.kind is Kind.TEACHER_FORWARD:
            targets += len(event.facts.get("inputs", (None,))) if not passes else -LARGE
        elif event.kind is Kind.BACKWARD:
            passes += 1
    whole = [step for step in steps[1:] if step[1] > 1]
    return bool(whole) and all(targets >= passes for targets, passes in whole)


def _swaps_views(audit: AuditContext) -> bool:
    """Return whether, in each step, teacher and student get the same inputs in another order (BYOL's two halves)."""
    steps: list[tuple[list[object], list[object]]] = [([], [])]
    for event in audit.recording.events:
        if event.kind is Kind.STEP_END:
            steps.append(([], []))
        elif event.kind in (Kind.STUDENT_FORWARD, Kind.TEACHER_FORWARD) and event.facts.get("input"):
            steps[-1][event.kind is Kind.TEACHER_FORWARD].append(event.facts["input"])
    whole = [(student, teacher) for student, teacher in steps[:-1] if student and teacher]
    return bool(whole) and all(s != t and len(s) == len(t) and set(s) == set(t) for s, t in whole)


@rule(
    "trained-by-no-optimizer", "T12", Severity.MAJOR,
    meaning="These parameters receive gradients at every step but keep their initial values, so their layers stay "
    "random for the whole run.",
    remedy="- optimizer = AdamW(encoder.parameters())      # created before this part, or without it\n"
    "+ optimizer = AdamW([*encoder.parameters(), *part.parameters()])",
)  # fmt: skip
def trained_by_no_optimizer(audit: AuditContext) -> Outcome:
    """T12: a part of the online branch gets gradients, no optimizer of the process holds it, and it never moves."""
    unheld = audit.recording.unheld
    if unheld is None:
        return unchecked("no loss was inspected: watch at least 3 optimizer steps")
    if not unheld:
        return passed("every parameter that received a gradient is in an optimizer")
    mine = [one for one in unheld if one.of_student]
    saw = (
        f"{len(unheld)} {'parameter receives' if len(unheld) == 1 else 'parameters receive'} gradients but "
        f"{'is' if len(unheld) == 1 else 'are'} in no optimizer, for example {unheld[0].name}"
    )
    names = [one.name for one in unheld[:20]]
    if len(mine) == len(unheld) and len(mine) > len(audit.tensors.pairs) / 2:
        # Most of the student: left out on purpose, to train the rest first.
        return warned(saw, "requires_grad=False for parameters that are frozen on purpose", tensors=names)
    return failed(saw, "an optimizer for these parameters, or requires_grad=False", location=unheld[0].location,
                  tensors=names)  # fmt: skip


@rule(
    "replicas-diverge", "D1", Severity.MAJOR,
    meaning="Each rank computes its own targets, and only one of the different teachers is saved.",
    remedy="- if rank == 0:  update_teacher(...)\n+ update_teacher(...)      # the same on every rank",
)  # fmt: skip
def replicas_diverge(audit: AuditContext) -> Outcome:
    """D1: ranks hold different teachers.  Signature: digests of the same samples after the last watched step."""
    if audit.replicas is None:
        return (
            passed("there is only one process")
            if audit.processes == 1
            else unchecked("the other ranks were not audited")
        )
    digests = set(audit.replicas.values())
    if len(digests) > 1:
        return failed(
            f"{len(audit.replicas)} ranks hold {len(digests)} different teachers",
            "the same teacher on every rank",
            location=audit.update_location(),
            processes=len(audit.replicas),
        )
    return passed(f"{len(audit.replicas)} ranks hold the same teacher")
