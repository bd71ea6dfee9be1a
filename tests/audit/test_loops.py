"""Every loop of the corpus: its fault is found, nothing else is reported, and sound loops are silent."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterable

import pytest
from audit.loops import FAULTY, LOOPS, SOUND, Loop
from audit.test_forks import TESTS, Ran, audit
from commands import environment

from hjepa.audit.judge.rules import RULES

# Copied from the contract of the auditor.
PROMISED = [
    "never-updated", "stale-student", "sparse-update", "update-per-microbatch", "update-on-skipped-step",
    "update-outside-training", "double-update", "non-finite-teacher", "swapped-coefficients", "hard-copy",
    "student-modified", "mispaired-parameters", "partial-update", "tied-weights-updated-twice", "precision-underflow",
    "buffers-mishandled", "momentum-mismatch", "schedule-kind", "schedule-per-epoch", "schedule-horizon",
    "schedule-offset", "schedule-restarted", "momentum-out-of-range", "initial-mismatch", "aliased-teacher",
    "teacher-not-frozen", "teacher-in-optimizer", "stochastic-teacher", "mode-left-changed", "teacher-replaced",
    "gradient-reaches-teacher", "target-not-detached", "trained-module-on-target-branch", "clip-before-unscale",
    "accumulation-not-scaled", "target-leak", "loss-on-wrong-positions", "target-not-normalised", "mask-coverage",
    "replicas-diverge", "update-without-student", "trained-by-no-optimizer", "clip-per-microbatch",
]  # fmt: skip
QUICK_SOUND = ("ijepa", "ema_in_forward_between", "byol", "accumulation", "amp_scaler", "timm_model_ema")
HAS_LIGHTNING = importlib.util.find_spec("lightning") is not None


def name(loop: Loop) -> str:
    kind, _, script = loop.script.removesuffix(".py").partition("_loops/")
    return "-".join([kind, script, *(word.strip("-") for word in (*loop.options, *loop.arguments))])


def quick(loops: Iterable[Loop]) -> set[str]:
    """Return the names of one loop for each rule, and of six sound ones with their specification."""
    first: dict[str, Loop] = {}
    for loop in loops:
        if loop.launch == "python" and loop.style != "lightning":
            if loop.rule is not None:
                first.setdefault(loop.rule, loop)
            elif loop.options and loop.script.removesuffix(".py").removeprefix("sound_loops/") in QUICK_SOUND:
                first.setdefault(loop.script, loop)
    return {name(loop) for loop in first.values()}


QUICK = quick(LOOPS)


def row(loop: Loop) -> object:
    marks = [] if name(loop) in QUICK else [pytest.mark.slow]
    if loop.style == "lightning":
        marks.append(pytest.mark.skipif(not HAS_LIGHTNING, reason="lightning is not installed"))
    return pytest.param(loop, id=name(loop), marks=marks)


@pytest.mark.parametrize("loop", [row(loop) for loop in LOOPS])
def test_the_planted_fault_is_found_and_nothing_else(loop, tmp_path):
    ran = audit(*loop.options, loop.script, *loop.arguments) if loop.launch == "python" else torchrun(loop, tmp_path)
    report = ran.report
    assert report is not None, f"no report: {ran}"
    crashed = [f"{f['rule']}: {f['reason']}" for f in report["findings"] if "the rule itself failed" in f["reason"]]
    assert not crashed, ran
    assert report["steps"] > 0, f"{report['reason']} {report['subject']['candidates']}\n{ran}"
    shown = "\n".join(
        f"{f['status']} {f['rule']}: {f['saw']} {f['reason']}"
        for f in report["findings"]
        if f["rule"] in ran.fired | {loop.rule}
    )
    expected = {loop.rule} - {None}
    assert expected <= ran.fired, f"{loop.rule} is silent\n{shown}\n{ran}"
    assert ran.fired <= expected | loop.implied, f"false alarms\n{shown}\n{ran}"
    failed = any(f["status"] == "fail" for f in report["findings"])
    assert report["verdict"] in (("deviates", "fails") if failed else ("conforms",))
    assert loop.rule is not None or report["verdict"] == "conforms"
    if loop.launch == "python":
        assert ran.code == int(failed), ran
    assert ran.out == "", "the summary belongs to standard error"
    assert f"hjepa audit: {report['verdict'].upper()}" in ran.err


def torchrun(loop: Loop, folder) -> Ran:
    """Audit with two real processes."""
    report = folder / "audit.json"
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "hjepa.audit", "--json", str(report), *loop.options, loop.script, *loop.arguments,
    ]  # fmt: skip
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=TESTS, env=environment(), timeout=180
    )  # fmt: skip
    found = json.loads(report.read_text()) if report.exists() else None
    return Ran(done.returncode, done.stdout, done.stderr, found)


def test_every_rule_has_a_quick_loop_but_the_one_that_needs_two_processes():
    rules = {loop.rule for loop in LOOPS if name(loop) in QUICK}
    assert rules - {None} == set(PROMISED) - {"replicas-diverge"}
    assert sum(loop.rule is None for loop in LOOPS if name(loop) in QUICK) == len(QUICK_SOUND)


def test_the_table_and_the_files_agree():
    files = {str(path.relative_to(TESTS)) for kind in ("faulty", "sound") for path in TESTS.glob(f"{kind}_loops/*.py")}
    assert {loop.script for loop in LOOPS} == files
    assert len({name(loop) for loop in LOOPS}) == len(LOOPS), "a row stands twice"
    assert all(loop.script.startswith("faulty_loops/") and loop.rule for loop in FAULTY)
    assert all(loop.script.startswith("sound_loops/") and not loop.rule and not loop.implied for loop in SOUND)


def test_a_faulty_loop_marks_its_fault_and_a_sound_one_has_none():
    for loop in LOOPS:
        marked = re.findall(r"# FAULT\b", (TESTS / loop.script).read_text())
        assert bool(marked) == (loop.rule is not None), loop.script


def test_the_rules_are_those_promised():
    assert sorted(rule.name for rule in RULES) == sorted(PROMISED)


def test_every_rule_has_a_faulty_loop_and_there_are_many():
    assert {loop.rule for loop in FAULTY} == set(PROMISED)
    assert {rule for loop in FAULTY for rule in loop.implied} <= set(PROMISED)
    assert len({loop.script for loop in FAULTY}) >= 40
    assert len({loop.script for loop in SOUND}) >= 13
