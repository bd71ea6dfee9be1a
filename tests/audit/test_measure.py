"""What the auditor measures is what the loop did: momentum, lag, schedule, and when they cannot be told."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from audit.test_harmless import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts.tiny_jepa import WIDTH, gather, random_images, random_masks
from torch import Tensor, nn
from torch.nn import functional as F

from hjepa.audit import TeacherAudit, specs
from hjepa.audit.judge.findings import Status, Verdict
from hjepa.audit.measure.regression import fit, rounding_noise
from hjepa.audit.measure.update_fits import explain
from hjepa.audit.measure.updates import Update
from hjepa.audit.observe.recording import Event, Kind, Snapshot
from hjepa.audit.tell.report import Report

STEPS = 20
MOMENTUM = 0.996
Average = Callable[[nn.Module, nn.Module, float], None]


# ---------------------------------------------------------------------- ways to write the update


def mul_add(teacher: nn.Module, student: nn.Module, m: float) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.mul_(m).add_(s, alpha=1 - m)


def through_data(teacher: nn.Module, student: nn.Module, m: float) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.data.mul_(m).add_((1.0 - m) * s.detach().data)


def lerp(teacher: nn.Module, student: nn.Module, m: float) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.lerp_(s, 1 - m)


def foreach(teacher: nn.Module, student: nn.Module, m: float) -> None:
    torch._foreach_mul_(list(teacher.parameters()), m)
    torch._foreach_add_(list(teacher.parameters()), list(student.parameters()), alpha=1 - m)


def new_data(teacher: nn.Module, student: nn.Module, m: float) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.data = t.data * m + s.data * (1.0 - m)


def loaded(teacher: nn.Module, student: nn.Module, m: float) -> None:
    mine, other = teacher.state_dict(), student.state_dict()
    teacher.load_state_dict({name: m * mine[name] + (1 - m) * other[name] for name in mine})


def numpy_arrays(teacher: nn.Module, student: nn.Module, m: float) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        array = t.detach().numpy()
        array += (1 - m) * (s.detach().numpy() - array)


AVERAGES: list[Average] = [mul_add, through_data, lerp, foreach, new_data, loaded, numpy_arrays]


TRACED = [average for average in AVERAGES if average is not new_data]  # see test_memory_that_is_used_again...


def watched(
    run: Run,
    step: Callable[[int], None],
    spec: specs.Spec | None = None,
    *,
    steps: int = STEPS,
    more: int = 2,
    trace: bool = True,
) -> Report:
    """Return the report of ``steps`` calls of ``step``; ``more`` follow after the window."""
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, spec, steps=steps, trace=trace) as audit:
        for number in range(steps + more):
            step(number)
    return audit.report()


def plain(run: Run, average: Average = mul_add, momentum: Callable[[int], float] = lambda step: MOMENTUM):
    """Return a step of order A."""

    def step(number: int) -> None:
        loss = run.loss()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        with torch.no_grad():
            average(run.teacher, run.encoder, momentum(number))

    return step


def distances(report: Report, momentum: Callable[[int], float]) -> list[float]:
    assert list(report.measured.momentum_step) == list(range(len(report.measured.momentum)))
    return [abs(m - momentum(step)) for step, m in enumerate(report.measured.momentum)]


# ---------------------------------------------------------------------- momentum


QUICK = (mul_add, new_data, numpy_arrays)


@pytest.mark.parametrize(
    "average",
    [pytest.param(a, id=a.__name__, marks=[] if a in QUICK else [pytest.mark.slow]) for a in AVERAGES],
)
def test_the_momentum_is_right_however_the_update_is_written(average):
    run = Run()
    report = watched(run, plain(run, average), specs.custom(MOMENTUM), trace=average in TRACED)
    assert len(report.measured.momentum) == STEPS
    assert max(distances(report, lambda step: MOMENTUM)) < 1e-6
    assert report.verdict is Verdict.CONFORMS, [f.saw for f in report.failures]
    assert report.measured.schedule == "constant"


def rates(quick: tuple[float, ...], all_of: tuple[float, ...]) -> list[object]:
    """Return learning rates, slow but for the quick ones."""
    return [pytest.param(rate, marks=[] if rate in quick else [pytest.mark.slow]) for rate in all_of]


RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize("rate", rates((1e-5,), RATES))
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_the_momentum_and_its_error_are_right_at_any_learning_rate(kind, rate):
    run = Run()
    run.optimizer = kind([*run.encoder.parameters(), *run.predictor.parameters()], lr=rate)
    report = watched(run, plain(run), specs.custom(MOMENTUM), trace=False)
    away, errors = distances(report, lambda step: MOMENTUM), report.measured.momentum_error
    assert len(away) >= STEPS - 2
    assert all(a < max(1e-6, 6 * error) for a, error in zip(away, errors, strict=True)), (away, errors)
    if kind is torch.optim.AdamW and rate >= 1e-3:  # it moves every weight by about the learning rate
        assert max(away) < 1e-6


@pytest.mark.parametrize("rate", rates((1e-4,), RATES))
def test_a_sound_loop_with_plain_gradient_descent_conforms(rate):
    run = Run()
    run.optimizer = torch.optim.SGD([*run.encoder.parameters(), *run.predictor.parameters()], lr=rate)
    report = watched(run, plain(run), specs.custom(MOMENTUM))
    assert not report.failures, [(f.rule, f.saw) for f in report.failures]


def twice(teacher: nn.Module, student: nn.Module, m: float) -> None:
    new_data(teacher, student, m)
    new_data(teacher, student, m)


@pytest.mark.parametrize(
    "average, spec, status",
    [
        (twice, None, Status.NOT_CHECKED),
        (twice, specs.custom(momentum=MOMENTUM), Status.FAIL),
        (new_data, specs.custom(momentum=MOMENTUM), Status.PASS),
        (mul_add, None, Status.PASS),
    ],
)
def test_updates_that_are_not_traced_are_counted_by_the_declared_momentum_or_not_at_all(average, spec, status):
    run = Run()
    report = watched(run, plain(run, average), spec)
    assert {f.rule: f.status for f in report.findings}["double-update"] is status


@pytest.mark.parametrize("batches, status", [(0, Status.PASS), (4, Status.FAIL), (20, Status.NOT_CHECKED)])
def test_an_update_after_evaluating_the_teacher_alone_is_never_passed(batches, status):
    run = Run()
    train = plain(run)

    def step(number: int) -> None:
        train(number)
        if number % 4 == 3 and batches:
            with torch.no_grad():
                for batch in range(batches):
                    run.teacher(random_images())
                    if batch == batches - 1:
                        mul_add(run.teacher, run.encoder, MOMENTUM)

    report = watched(run, step)
    assert {f.rule: f.status for f in report.findings}["update-outside-training"] is status


def test_memory_that_is_used_again_is_not_taken_for_the_teacher():
    """MoCo writes ``p.data = ...``: what the teacher's old memory is used for next is no update of the teacher."""
    run, momentum = Run(), SCHEDULES["linear"]
    after, scratch = plain(run, new_data, momentum), []

    def step(number: int) -> None:
        scratch[:] = [torch.zeros(32).add_(1) for _ in range(500)]
        after(number)

    spec = specs.custom(MOMENTUM, kind="linear", final_momentum=1.0, total_steps=30)
    report = watched(run, step, spec)
    assert report.measured.order == "A"
    assert not report.failures, [f.saw for f in report.failures]
    assert max(distances(report, momentum)) < 1e-6


SCHEDULES = {
    "constant": lambda step: MOMENTUM,
    "linear": lambda step: MOMENTUM + (1 - MOMENTUM) * step / 30,
    "cosine": lambda step: 1 - (1 - MOMENTUM) * (1 + math.cos(math.pi * step / 30)) / 2,
}


@pytest.mark.parametrize("average", [mul_add, pytest.param(lerp, marks=pytest.mark.slow)], ids=["mul_add", "lerp"])
@pytest.mark.parametrize(
    "kind", [kind if kind == "linear" else pytest.param(kind, marks=pytest.mark.slow) for kind in SCHEDULES]
)
def test_the_schedule_is_right(kind, average):
    run, momentum = Run(), SCHEDULES[kind]
    final = None if kind == "constant" else 1.0
    spec = specs.custom(MOMENTUM, kind=kind, final_momentum=final, total_steps=30)
    report = watched(run, plain(run, average, momentum), spec)
    assert max(distances(report, momentum)) < 1e-6
    assert report.measured.schedule == kind
    assert report.measured.expected == pytest.approx([momentum(step) for step in range(STEPS)], abs=1e-12)
    assert report.verdict is Verdict.CONFORMS, [f.saw for f in report.failures]


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.5, 0.9, 0.99, 0.9995, 0.99999, 1.0])
def test_any_momentum_is_measured(momentum):
    run = Run()
    report = watched(run, plain(run, mul_add, lambda step: momentum), trace=False, steps=8)
    rules = {finding.rule: finding for finding in report.findings}
    if momentum == 1.0:
        assert rules["never-updated"].status is Status.FAIL
        return
    assert len(report.measured.momentum) == 8
    away = distances(report, lambda step: momentum)
    assert all(a < max(1e-6, 6 * e) for a, e in zip(away, report.measured.momentum_error, strict=True)), away
    assert (rules["hard-copy"].status is Status.FAIL) == (momentum == 0.0)


def test_float64_is_measured_to_many_more_digits():
    run = Run()
    for network in (run.encoder, run.predictor, run.teacher):
        network.double()
    images, masks = [random_images().double() for _ in range(12)], [random_masks() for _ in range(12)]

    def step(number: int) -> None:
        context_index, target_index = masks[number]
        with torch.no_grad():
            target = gather(F.layer_norm(run.teacher(images[number]), (WIDTH,)), target_index)
        predicted = run.predictor(run.encoder(images[number], context_index), context_index, target_index)
        run.optimizer.zero_grad()
        F.smooth_l1_loss(predicted, target).backward()
        run.optimizer.step()
        run.update(MOMENTUM)

    report = watched(run, step, steps=10)
    assert max(distances(report, lambda step: MOMENTUM)) < 1e-13


# ---------------------------------------------------------------------- order and lag


def in_order(run: Run, order: str) -> Callable[[int], None]:
    """Return a step with the update where ``order`` says."""
    old = copy.deepcopy(run.encoder)

    def step(number: int) -> None:
        images = random_images()
        context_index, target_index = random_masks()
        if order == "B":
            run.update(MOMENTUM)
        if order == "B'":
            encoded = run.encoder(images, context_index)
            run.update(MOMENTUM)
        with torch.no_grad():
            target = gather(F.layer_norm(run.teacher(images), (WIDTH,)), target_index)
        if order != "B'":
            encoded = run.encoder(images, context_index)
        predicted = run.predictor(encoded, context_index, target_index)
        if order == "C, before backward":
            run.update(MOMENTUM)
        run.optimizer.zero_grad()
        F.smooth_l1_loss(predicted, target).backward()
        if order == "C, before step":
            run.update(MOMENTUM)
        if order == "old student":
            old.load_state_dict(run.encoder.state_dict())
        run.optimizer.step()
        if order == "A" or (order == "A, every third" and number % 3 == 2):
            run.update(MOMENTUM)
        if order == "old student":
            with torch.no_grad():
                mul_add(run.teacher, old, MOMENTUM)

    return step


ORDERS = {  # what the loop does: what is measured as order, lag, updates per step
    "A": ("A", 0.0, 1.0),
    "B": ("B", 0.0, 1.0),
    "B'": ("B'", 0.0, 1.0),
    "C, before backward": ("C", 1.0, 1.0),
    "C, before step": ("C", 1.0, 1.0),
    "old student": ("A", 1.0, 1.0),
    "A, every third": ("A", 1.0, 1 / 3),
}


def orders() -> list[object]:
    found = []
    for order in ORDERS:
        for more in (2, 0):
            marks = [] if more and order in ("B", "B'", "C, before step", "old student") else [pytest.mark.slow]
            found.append(pytest.param(order, more, id=f"{order}{' to the end' * (more == 0)}", marks=marks))
    return found


@pytest.mark.parametrize(("order", "more"), orders())
def test_order_lag_and_rate_are_measured(order, more):
    run = Run()
    wanted, lag, rate = ORDERS[order]
    report = watched(run, in_order(run, order), specs.custom(MOMENTUM), more=more)
    assert report.measured.order == wanted
    # The first forward after the first step is the only one that may differ (nothing was averaged before it).
    assert report.measured.lag == pytest.approx(lag, abs=0.11)
    assert report.measured.updates_per_step == pytest.approx(rate, abs=0.02)
    assert max(abs(m - MOMENTUM) for m in report.measured.momentum) < 1e-6
    failed = {finding.rule for finding in report.failures}
    assert failed == (set() if lag == 0 else {"stale-student"} if rate == 1 else {"sparse-update"})


@pytest.mark.parametrize(
    ("order", "spec", "status"),
    [
        ("B'", specs.ijepa(total_steps=1_000_000), Status.INFO),
        ("B", specs.ijepa(total_steps=1_000_000), Status.INFO),
        ("B'", specs.moco(start=MOMENTUM), Status.PASS),
        ("A", specs.moco(start=MOMENTUM), Status.INFO),
        ("B'", specs.custom(MOMENTUM), Status.PASS),
        ("B", specs.custom(MOMENTUM, orders=["A", "B'"]), Status.INFO),
        ("C, before step", specs.moco(start=MOMENTUM), Status.FAIL),
    ],
)
def test_a_sound_order_that_is_not_the_prescribed_one_is_said(order, spec, status):
    report = watched(run := Run(), in_order(run, order), spec)
    finding = next(finding for finding in report.findings if finding.rule == "stale-student")
    assert finding.status is status, finding.saw
    assert ("both are " in finding.saw) == (status is Status.INFO)
    assert (report.verdict is Verdict.CONFORMS) == (status is not Status.FAIL), [f.saw for f in report.failures]


def test_an_order_that_cannot_be_told_is_not_compared():
    """Without tracing nothing tells an update after the step from one that begins the next step."""
    report = watched(run := Run(), in_order(run, "A"), specs.moco(start=MOMENTUM), trace=False)
    finding = next(finding for finding in report.findings if finding.rule == "stale-student")
    assert finding.status is Status.PASS and any(
        "order A" in unknown and "order B" in unknown for unknown in report.measured.not_identifiable
    )


# ---------------------------------------------------------------------- buffers


def normalised(treated: str, *, training: bool, spec: specs.Spec) -> Report:
    """Return the report of a small network with batch normalisation whose update treats its statistics so."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
    teacher = copy.deepcopy(student).requires_grad_(False).train(training)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with TeacherAudit(student, teacher, optimizer, spec, steps=6) as audit:
        for _ in range(8):
            images = torch.randn(16, 8)
            with torch.no_grad():
                target = teacher(images)
            optimizer.zero_grad()
            F.mse_loss(student(images + 1), target).backward()
            optimizer.step()
            with torch.no_grad():
                mul_add(teacher, student, 0.9)
                for t, s in zip(teacher.buffers(), student.buffers(), strict=True):
                    if treated == "copy" or (treated == "ema" and not t.is_floating_point()):
                        t.copy_(s)
                    elif treated == "ema":
                        t.mul_(0.9).add_(s, alpha=0.1)
    return audit.report()


@pytest.mark.parametrize("wanted", ["own", "copy", "ema", "any"])
@pytest.mark.parametrize("treated", ["own", "copy", "ema"])
def test_another_treatment_of_statistics_than_the_prescribed_one_is_said(treated, wanted):
    report = normalised(treated, training=True, spec=specs.custom(0.9, buffers=wanted))
    finding = next(finding for finding in report.findings if finding.rule == "buffers-mishandled")
    assert finding.status is (Status.PASS if wanted in (treated, "any") else Status.INFO), finding.saw
    assert ("the update" in finding.saw) == (finding.status is Status.INFO)


@pytest.mark.parametrize("wanted", ["train", "eval", "any"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_another_mode_of_normalisation_than_the_prescribed_one_is_said(training, wanted):
    report = normalised("copy", training=training, spec=specs.custom(0.9, batchnorm=wanted))
    finding = next(finding for finding in report.findings if finding.rule == "buffers-mishandled")
    as_wanted = wanted in ("any", "train" if training else "eval")
    assert finding.status is (Status.PASS if as_wanted else Status.INFO), finding.saw
    assert ("mode" in finding.saw) == (not as_wanted)


# ---------------------------------------------------------------------- too little to tell


@pytest.mark.parametrize("rate", rates((0.0, 1e-8, 1e-9), (0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)))
def test_a_sound_loop_that_hardly_learns_is_not_condemned(rate):
    run = Run()
    run.optimizer = torch.optim.AdamW(
        [*run.encoder.parameters(), *run.predictor.parameters()], lr=rate, weight_decay=0.0
    )
    report = watched(run, plain(run), specs.custom(MOMENTUM))
    assert not report.failures, [(f.rule, f.saw) for f in report.failures]
    if rate == 0.0:
        assert report.verdict is Verdict.INCONCLUSIVE and "0 optimizer steps changed the student" in report.reason


@pytest.mark.parametrize(
    ("kind", "peak", "steps"),
    [
        (torch.optim.AdamW, 1e-3, 1_000),
        (torch.optim.AdamW, 1.5e-4, 40_000),
        (torch.optim.SGD, 1e-3, 1_000),
    ],
    ids=["AdamW", "AdamW slow", "SGD"],
)
def test_a_sound_loop_in_its_warm_up_conforms(kind, peak, steps):
    """The first steps of a run, those that are watched, have a learning rate that rises from almost nothing."""
    run, total = Run(), 10_000
    run.optimizer = kind([*run.encoder.parameters(), *run.predictor.parameters()], lr=0.0)
    after = plain(run, momentum=lambda step: MOMENTUM + (1 - MOMENTUM) * step / total)

    def step(number: int) -> None:
        for group in run.optimizer.param_groups:
            group["lr"] = peak * (number + 1) / steps
        after(number)

    report = watched(run, step, specs.ijepa(total_steps=total))
    assert not report.failures, [(f.rule, f.saw) for f in report.failures]


def test_a_tiny_learning_rate_does_not_hide_the_order():
    """New and old student cannot be told apart by values, but the place of the update between events can."""
    run = Run()
    run.optimizer = torch.optim.AdamW([*run.encoder.parameters(), *run.predictor.parameters()], lr=1e-6)
    report = watched(run, in_order(run, "C, before step"), specs.custom(MOMENTUM))
    assert report.measured.order == "C" and report.measured.lag == pytest.approx(1.0, abs=0.11)


# ---------------------------------------------------------------------- the regressions by themselves


def float32_update(t: Tensor, c: Tensor, momentum: float) -> Tensor:
    return t.float().mul_(momentum).add_(c.float(), alpha=1 - momentum).double()


def networks(seed: int, size: int, gap: float, drift: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return teacher, student before the last step, and student after it; all float32 numbers."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(3, size, generator=generator)
    teacher = 0.1 * normal[0]
    before = teacher + gap * normal[1]
    return teacher.double(), before.double(), (before + drift * normal[2]).double()


def snapshot(teacher: Tensor, student: Tensor) -> Snapshot:
    return Snapshot(teacher, student, torch.zeros(0), torch.zeros(0), (), ())


def explained(t0: Tensor, t1: Tensor, previous: Tensor, current: Tensor) -> Update:
    events = (
        Event(Kind.STEP_END, 1, snapshot=snapshot(t0, current)),
        Event(Kind.TEACHER_FORWARD, 1, snapshot=snapshot(t1, current)),
    )
    update = Update(1, 1, "A", *events, first=True, evaluation=False, skipped=False, student_changed=False)
    rounding = torch.full_like(t0, torch.finfo(torch.float32).eps)
    explain(update, previous, rounding, torch.arange(len(t0)) // 64)
    return update


sizes = st.integers(4, 40).map(lambda tensors: 64 * tensors)
momenta = st.one_of(
    st.floats(0.0, 1.0), st.floats(-7.0, 0.0).map(lambda power: 1 - 10**power), st.sampled_from([0.0, 1.0])
)
gaps = st.floats(-6.0, 0.5).map(lambda power: 10**power)
seeds = st.integers(0, 2**32 - 1)
thorough = settings(max_examples=60, deadline=None, derandomize=True)
ROUNDED = 6e-8  # momentum and 1 - momentum are rounded to float32 before they are used


@given(seed=seeds, size=sizes, momentum=momenta, gap=gaps)
@thorough
def test_a_fit_is_within_its_error(seed, size, momentum, gap):
    t0, _, c = networks(seed, size, gap, 0.0)
    t1 = float32_update(t0, c, momentum)
    noise = rounding_noise(t0, t1, torch.full_like(t0, torch.finfo(torch.float32).eps), c)
    found = fit(t0, t1, c, noise)
    assert found.explains
    assert abs(found.momentum - momentum) <= 6 * found.error + ROUNDED
    assert abs(found.excess) <= 6 * found.excess_error + ROUNDED


@given(seed=seeds, size=sizes, momentum=st.floats(0.3, 0.999), gap=st.floats(1e-3, 0.3), excess=st.floats(-0.01, 0.01))
@thorough
def test_coefficients_that_do_not_sum_to_one_do_not_spoil_the_momentum(seed, size, momentum, gap, excess):
    t0, _, c = networks(seed, size, gap, 0.0)
    t1 = ((momentum + excess) * t0 + (1 - momentum) * c).float().double()
    found = fit(t0, t1, c, rounding_noise(t0, t1, torch.full_like(t0, torch.finfo(torch.float32).eps), c))
    assert found.explains
    assert found.excess == pytest.approx(excess, abs=6 * found.excess_error + 1e-12)
    assert found.momentum == pytest.approx(momentum, abs=6 * found.error + 1e-12)


@given(seed=seeds, size=sizes, momentum=momenta, gap=gaps, drift=gaps, old=st.booleans())
@thorough
def test_new_and_old_student_are_told_apart_or_nothing_is_said(seed, size, momentum, gap, drift, old):
    t0, previous, current = networks(seed, size, gap, drift)
    t1 = float32_update(t0, previous if old else current, momentum)
    update = explained(t0, t1, previous, current)
    if update.stale is None:
        assert update.stale_error is None
        return
    assert update.stale_error is not None and update.stale_error < 0.1
    assert abs(update.stale - old) <= 6 * update.stale_error + 1e-9
    assert update.fit is not None
    if update.fit.explains:
        assert abs(update.fit.momentum - momentum) <= 6 * update.fit.error + ROUNDED


@given(seed=seeds, size=sizes, momentum=st.floats(0.5, 0.999), gap=st.floats(1e-3, 0.1), old=st.booleans())
@thorough
def test_a_clear_case_is_told(seed, size, momentum, gap, old):
    t0, previous, current = networks(seed, size, gap, 0.3 * gap)
    update = explained(t0, float32_update(t0, previous if old else current, momentum), previous, current)
    assert update.stale is not None and round(update.stale) == old
    assert update.fit is not None and update.fit.explains
    assert update.fit.momentum == pytest.approx(momentum, abs=6 * update.fit.error + ROUNDED)


@given(seed=seeds, size=sizes, momentum=st.floats(0.0, 0.9999), gap=gaps)
@thorough
def test_a_step_below_rounding_is_not_told(seed, size, momentum, gap):
    """The last step moved the student by next to nothing: averaged was the new one, and no one can see that."""
    t0, previous, _ = networks(seed, size, gap, 0.0)
    current = previous.clone()
    current[:8] = torch.nextafter(previous[:8].float(), torch.tensor(torch.inf)).double()
    update = explained(t0, float32_update(t0, current, momentum), previous, current)
    assert update.stale is None or abs(update.stale) < 0.5


@given(seed=seeds, momentum=st.floats(0.5, 0.9999), gap=st.floats(-10.0, -6.0).map(lambda power: 10**power))
@thorough
def test_rounding_that_repeats_itself_is_within_the_error(seed, momentum, gap):
    """The same numbers are rounded to the same side in every update, away from the student as often as towards it."""
    t, _, c = networks(seed, 640, gap, 0.0)
    for _ in range(10):
        after = float32_update(t, c, momentum)
        update = explained(t, after, c, c)
        if update.fit is not None:
            assert abs(update.fit.momentum - momentum) <= 6 * update.fit.error + ROUNDED
        t = after


@given(seed=seeds, momentum=st.floats(0.5, 0.9999), precise=st.integers(1, 3))
@thorough
def test_a_few_tensors_that_tell_outvote_many_that_only_show_rounding(seed, momentum, precise):
    """Biases start at 0, where steps are exact that no weight near 1 could hold."""
    t0, previous, current = networks(seed, 640, 1e-8, 0.0)
    t0[: 64 * precise] = 0.0
    current[: 64 * precise] = 1e-8 * networks(seed, 64 * precise, 1.0, 0.0)[1]
    current = current.float().double()
    update = explained(t0, float32_update(t0, current, momentum), previous, current)
    assert update.fit is not None and update.fit.error < 1e-6
    assert update.fit.momentum == pytest.approx(momentum, abs=6 * update.fit.error + ROUNDED)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_fitted(bad):
    t0, previous, current = networks(0, 256, 0.1, 0.01)
    t1 = float32_update(t0, current, 0.9)
    t1[3] = bad
    assert explained(t0, t1, previous, current).fit is None


def test_an_update_that_no_student_explains_is_not_explained():
    t0, previous, current = networks(0, 1024, 0.1, 0.01)
    t1 = t0 + 0.01 * networks(1, 1024, 0.1, 0.01)[0]
    update = explained(t0, t1, previous, current)
    assert update.fit is not None and not update.fit.explains
