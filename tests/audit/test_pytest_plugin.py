"""The pytest plugin in a project of its own: what passes, what fails and why, and what it costs others."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from commands import environment

PROJECT = """
import copy

import pytest
import torch
from torch import nn


def loop(*, stale, steps=12):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)

    @torch.no_grad()
    def update():
        for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
            t.lerp_(s, 0.01)  # THE UPDATE

    def train():
        for _ in range(steps):
            x = torch.randn(32, 8)
            loss = (student(x) - teacher(x + 0.1 * torch.randn_like(x))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if stale:
                update()
            optimizer.step()
            if not stale:
                update()

    return student, teacher, optimizer, train


def custom():
    from hjepa.audit import specs

    return specs.custom(momentum=0.99)


def test_sound(assert_conforms):
    student, teacher, optimizer, train = loop(stale=False)
    with assert_conforms(student=student, teacher=teacher, optimizer=optimizer, spec=custom(), steps=8) as audit:
        train()
    assert audit.report().verdict == "conforms"


def test_stale(assert_conforms):
    student, teacher, optimizer, train = loop(stale=True)
    with assert_conforms(student, teacher, optimizer, spec=custom(), steps=8):
        train()


def test_wrong_momentum(assert_conforms):
    student, teacher, optimizer, train = loop(stale=False)
    with assert_conforms(student, teacher, optimizer, spec="vjepa2", steps=8):
        train()


def test_nothing_trained(assert_conforms):
    student, teacher, optimizer, train = loop(stale=False)
    with assert_conforms(student, teacher, optimizer, steps=8):
        pass


def test_own_error(assert_conforms):
    student, teacher, optimizer, train = loop(stale=True)
    with assert_conforms(student, teacher, optimizer, steps=8):
        train()
        raise ArithmeticError("the run's own")


def test_forgotten_with(assert_conforms):
    student, teacher, optimizer, train = loop(stale=True)
    assert_conforms(student, teacher, optimizer, steps=8)
    train()
"""


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_project.py").write_text(PROJECT)
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-rA", "-p", "no:cacheprovider", *words],
        capture_output=True, text=True, check=False, cwd=folder, env=environment(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> str:
    done = pytest_in(tmp_path_factory.mktemp("project"))
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def outcome(said: str, test: str) -> str:
    """Return the line of the short summary on this test."""
    return next(line for line in reversed(said.splitlines()) if f"::{test}" in line)


def test_the_entry_point_is_declared():
    (found,) = entry_points(group="pytest11", name="hjepa_audit")
    assert found.value == "hjepa.audit.pytest_plugin"


def test_a_sound_loop_passes(said):
    assert outcome(said, "test_sound").startswith("PASSED")


def test_a_stale_loop_fails_with_rule_place_and_remedy(said):
    assert outcome(said, "test_stale").startswith("FAILED")
    line = next(number for number, text in enumerate(PROJECT.splitlines(), 1) if "THE UPDATE" in text)
    assert f"- stale-student (minor) at test_project.py:{line}" in said
    assert "teacher_audit.py" not in said, "only lines of the test itself are shown"


def test_another_momentum_fails(said):
    assert outcome(said, "test_wrong_momentum").startswith("FAILED")
    assert "momentum-mismatch (minor)" in said and "the measured momentum is 0.990000" in said


def test_too_little_is_no_pass(said):
    assert outcome(said, "test_nothing_trained").startswith("FAILED")
    assert re.search(r"the student's optimizer took no step: .*at least 2 steps", said)


def test_an_error_of_the_test_stays_its_error(said):
    assert "ArithmeticError" in outcome(said, "test_own_error")


def test_a_forgotten_with_is_an_error_of_the_test(said):
    assert outcome(said, "test_forgotten_with").startswith("ERROR")
    assert re.search(r"assert_conforms\(\.\.\.\) .* only .*: with assert_conforms\(\.\.\.\): train\(\)", said)


def test_the_plugin_imports_no_torch(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import sys\n\n\ndef pytest_unconfigure():\n"
        "    assert 'hjepa.audit.pytest_plugin' in sys.modules\n"
        "    print('HEAVY', sorted({'torch', 'numpy', 'hjepa.audit.teacher_audit'} & set(sys.modules)))\n"
    )
    (tmp_path / "test_light.py").write_text("def test_nothing():\n    pass\n")
    done = pytest_in(tmp_path, "test_light.py")
    assert done.returncode == 0 and "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_the_fixture_explains_itself(tmp_path):
    done = pytest_in(tmp_path, "--fixtures")
    assert "with assert_conforms(student=encoder, teacher=target" in done.stdout
