"""J: what the predictor may see, and what it must hit.  Needs token positions and criteria that can be read."""

import torch
from torch import Tensor

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.rule import Outcome, counted, failed, noted, passed, rule, unchecked
from hjepa.audit.observe.recording import Event, Kind

NO_INDEX = (
    "token positions were not recognised: they are read if the student's forward gets the context positions and the "
    "predictor's forward the target positions as integer tensors [batch, tokens]; lists of masks and boolean masks are "
    "not supported"
)
NOT_PATCHES = (0, 1, 2, 4, 5, 8, 9)  # class and distillation tokens, registers: what published ViTs add
LONG_TAIL = 40  # expected occurrences of a token that make its absence no accident


def _positions(audit: AuditContext) -> list[tuple[Tensor, list[Tensor]]]:
    """Return (context [B, V], targets [[B, T] ...]) of the forwards where both are known."""
    found = []
    context: Tensor | None = None
    for event in audit.recording.events:
        if event.kind is Kind.STUDENT_END and len(event.facts.get("index", ())) == 1:
            index = event.facts["index"][0]
            context = index if index.ndim == 2 else None
        elif event.kind is Kind.PREDICTOR and context is not None:
            targets = [t for t in event.facts["index"] if not _equal(t, context)]
            flat = [part for target in targets for part in _by_image(target, len(context))]
            if flat:
                found.append((context, flat))
            context = None
    return found


def _sees_everything(audit: AuditContext) -> int:
    """Return how many student forwards saw whole images although the predictor is told what the context is.

    Only a forward of the whole student that was given the images and nothing else, and that returns as many tokens
    as the teacher: a wrapper, or the student's own methods, may pick the tokens in between.
    """
    count = 0
    teacher = student = shape = None
    for event in audit.recording.events:
        if event.kind is Kind.TEACHER_FORWARD:
            teacher = event.facts.get("input")
        elif event.kind is Kind.TEACHER_END:
            shape = event.facts.get("shape")
        elif event.kind is Kind.STUDENT_FORWARD:
            student = (event.facts.get("input"), None) if event.facts.get("gradients") else None
        elif event.kind is Kind.STUDENT_END:
            alone = event.facts.get("images_alone") and not event.facts.get("index")
            student = (student[0], event.facts.get("shape")) if student is not None and alone else None
        elif event.kind is Kind.PREDICTOR:
            positions = [index for index in event.facts["index"] if index.ndim == 2]
            whole = student is not None and student[0] == teacher and student[1] == shape
            count += len(positions) >= 2 and whole
            teacher = student = shape = None
    return count


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _by_image(target: Tensor, images: int) -> list[Tensor]:
    """Return target positions as tensors [B, T] of the same images as the context."""
    if target.ndim == 3 and len(target) == images:
        return [target.flatten(1)]
    if target.ndim == 2 and len(target) == images:
        return [target]
    return []


@rule(
    "target-leak", "J1", Severity.CRITICAL,
    meaning="The context encoder sees what is to be predicted: the loss looks excellent, but little is learned.",
    remedy="+ remove the target positions from the context before the encoder",
)  # fmt: skip
def target_leak(audit: AuditContext) -> Outcome:
    """J1: target positions are among the context positions of the same image."""
    whole = _sees_everything(audit)
    if whole:
        return failed(
            f"in {counted(whole, 'forward')} the student received the same whole images as the teacher and no "
            "positions, although the predictor received context positions: the context features were computed from "
            "all patches",
            "the context encoder sees context patches only",
            location=audit.location(Kind.STUDENT_FORWARD),
            forwards=whole,
        )
    known = _positions(audit)
    if not known:
        return unchecked(NO_INDEX)
    images = leaked = 0
    for context, targets in known:
        for n in range(len(context)):
            images += 1
            leaked += any(bool(torch.isin(target[n], context[n]).any()) for target in targets)
    if leaked:
        return failed(
            f"in {leaked} of {images} images the context contains target positions",
            "no position is both context and target",
            location=audit.location(Kind.STUDENT_FORWARD),
            images=leaked, of=images,
        )  # fmt: skip
    return passed(f"context and targets share no position in {images} images")


@rule(
    "loss-on-wrong-positions", "J2", Severity.MAJOR,
    meaning="Padding or visible patches count as targets, so the loss rewards the wrong predictions.",
    remedy="+ multiply the loss by a validity mask, or truncate all targets to the same length",
)  # fmt: skip
def loss_on_wrong_positions(audit: AuditContext) -> Outcome:
    """J2: gradient at predictions that are no targets: repeats of a padded position, or visible ones."""
    checked = 0
    for event in audit.events(Kind.PREDICTOR):
        rows = event.facts.get("rows")
        if rows is None:
            continue
        wrong = _wrong_rows(event, rows)
        if wrong is None:
            continue
        checked += 1
        count, what = wrong
        if count:
            return failed(
                f"the loss has a gradient at {counted(count, 'prediction')} for {what}",
                "one gradient per target position",
                location=event.location,
                predictions=count,
            )
    if not checked:
        return unchecked(NO_INDEX)
    return passed(f"in {counted(checked, 'forward')} only target positions have a gradient")


def _wrong_rows(event: Event, rows: Tensor) -> tuple[int, str] | None:
    """Return how many predictions with gradient are no targets, and what they are; None if that cannot be told."""
    indices: list[Tensor] = event.facts["index"]
    for index in indices:
        for blocks in (index.reshape(-1, index.shape[-1]), index.reshape(len(index), -1)):
            if rows.numel() == blocks.numel() and rows.reshape(len(rows), -1).shape[1] % blocks.shape[1] == 0:
                return _repeats(blocks, rows.reshape(blocks.shape)), "repeated positions (padding)"
    flat = [index for index in indices if index.ndim == 2 and len(index) == len(rows)]
    if len(flat) == 2 and rows.ndim == 2 and rows.shape[1] == flat[0].shape[1] + flat[1].shape[1]:
        return int(rows[:, : flat[0].shape[1]].sum()), "context positions"
    return None


def _repeats(blocks: Tensor, rows: Tensor) -> int:
    """Return how many rows with a gradient are padding.

    Blocks of targets may overlap, so a position that stands twice is none by itself. Padding repeats one filler:
    at the end of a list, or the same position in every list that repeats any.
    """
    tails, repeated = 0, []
    for positions, touched in zip(blocks.tolist(), rows.tolist(), strict=True):
        run = 1  # equal positions at the end
        while run < len(positions) and positions[-run - 1] == positions[-1]:
            run += 1
        tails += sum(touched[len(touched) - run + 1 :])
        seen: set[int] = set()
        for position, hit in zip(positions, touched, strict=True):
            if position in seen and hit:
                repeated.append(position)
            seen.add(position)
    if tails:
        return max(tails, len(repeated)) if len(set(repeated)) == 1 else tails
    return len(repeated) if len(repeated) > 2 and len(set(repeated)) == 1 else 0


@rule(
    "target-not-normalised", "J4", Severity.MINOR,
    meaning="Without normalisation of each target token, a few channels with large values dominate the loss, and it "
    "can fall by shrinking the features.",
    remedy="+ target = F.layer_norm(target, (target.shape[-1],))      # of the teacher's output, without affine",
)  # fmt: skip
def target_not_normalised(audit: AuditContext) -> Outcome:
    """J4: target tokens do not have mean 0 and variance 1, against a specification that prescribes it."""
    compared = [
        c for event in audit.events(Kind.BACKWARD) for c in event.facts.get("criteria", ()) if c.mean is not None
    ]
    if audit.spec.target_normalisation != "layer-norm":
        return unchecked("the specification does not prescribe target normalisation")
    if not compared:
        return unchecked("the loss has no criterion whose target can be read (such as smooth L1 or MSE)")
    worst = max(compared, key=lambda c: max(c.mean or 0.0, c.deviation or 0.0))
    if (worst.mean or 0.0) > 0.05 or (worst.deviation or 0.0) > 0.1:
        return failed(
            f"a target token has mean {worst.mean:.3f}, and a standard deviation differs from 1 by "
            f"{worst.deviation:.3f}",
            "mean 0 and standard deviation 1 for each token",
            location=audit.location(Kind.BACKWARD),
            mean=worst.mean, deviation=worst.deviation,
        )  # fmt: skip
    off = max(worst.mean or 0, worst.deviation or 0)
    return passed(f"target tokens have mean 0 and standard deviation 1 (within {off:.1e})")


@rule(
    "mask-coverage", "J8", Severity.MINOR,
    meaning="The encoder is not trained on patches that are never context or never a target.",
    remedy="  let blocks reach the last row and column: randint(0, H - h + 1)",
)  # fmt: skip
def mask_coverage(audit: AuditContext) -> Outcome:
    """J8: patches that can never be context or target.  Signature: histograms over the steps watched."""
    known = _positions(audit)
    if not known:
        return unchecked(NO_INDEX)
    highest = max(max(int(c.max()), *(int(t.max()) for t in ts)) for c, ts in known)
    size = max(_patches(audit) or 0, highest + 1)
    counts = {"context": torch.zeros(size), "target": torch.zeros(size)}
    for context, targets in known:
        counts["context"] += _draws(context, size)
        for target in targets:
            counts["target"] += _draws(target, size)
    missing = {}
    for role, count in counts.items():
        if float(count.sum()) / size < LONG_TAIL:
            return unchecked(
                f"only {int(count.sum())} {role} positions for {size} patches were sampled: watch more steps"
            )
        missing[role] = [int(n) for n in (count == 0).nonzero().flatten()]
    if missing.get("target") and not missing.get("context") and _as_published(audit, missing["target"], size):
        return noted(
            f"{len(missing['target'])} of {size} patches, the last row and column, were never a target; the "
            f"published sampler of {audit.spec.name} leaves them out too",
            missing=missing,
        )
    if any(missing.values()):
        named = {"context": "context", "target": "a target"}
        said = " and ".join(f"{len(v)} never {named[role]}" for role, v in missing.items() if v)
        return failed(
            f"of {size} patches, {said} in {counted(len(known), 'forward')}",
            "every patch can be context and target",
            location=audit.location(Kind.STUDENT_FORWARD),
            missing=missing,
        )
    return passed(f"each of {size} patches was both context and target")


def _as_published(audit: AuditContext, missing: list[int], size: int) -> bool:
    """Return whether the released sampler explains it: its blocks never reach the last row and column."""
    side = round(size**0.5)
    last = {n for n in range(size) if n % side == side - 1 or n // side == side - 1}
    return audit.spec.name in ("ijepa", "vjepa", "vjepa2") and side * side == size and set(missing) <= last


def _draws(positions: Tensor, size: int) -> Tensor:
    """Return how often each patch was drawn; images of a batch that share their positions are one draw."""
    return torch.bincount(torch.unique(positions.sort(dim=1).values, dim=0).flatten(), minlength=size)


def _patches(audit: AuditContext) -> int | None:
    """Return how many patches the teacher's images have, when its tokens say so.

    A sampler that never reaches the last row and column shows too small a highest position. Tokens that are no
    patches (class token, registers) are told apart by the size of the images, which the grid must divide.
    """
    images: tuple[int, ...] = next(
        (e.facts["input"][1] for e in audit.events(Kind.TEACHER_FORWARD) if e.facts.get("input")), ()
    )
    tokens: tuple[int, ...] = next(
        (e.facts["shape"] for e in audit.events(Kind.TEACHER_END) if len(e.facts.get("shape", ())) == 3), ()
    )
    if len(images) != 4 or not tokens:
        return None
    height, width = images[-2:]
    sides = [side for side in range(1, min(height, width) + 1) if height % side == 0 and width % side == 0]
    possible = {(height // side) * (width // side) for side in sides}
    return next((tokens[1] - extra for extra in NOT_PATCHES if tokens[1] - extra in possible), None)
