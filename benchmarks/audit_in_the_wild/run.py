"""Released packages audited from outside: each one's own teacher update, driven in its documented way.

Usage:  python benchmarks/audit_in_the_wild/run.py [--work FOLDER] [--only WORD ...] [--output FILE]

Makes isolated environments in the folder (kept and used again when it exists; a temporary one by default),
installs the released packages, runs ``python -m hjepa.audit`` on the drive_*.py beside this file, and writes
docs/audit-in-the-wild.md. Random tensors only: no data set and no weights are downloaded.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUTPUT = ROOT / "docs" / "audit-in-the-wild.md"
LEAST_CERTAIN = 0.01  # standard error above which a measured momentum is not shown
PINNED = ("torch==2.14.1", "torchvision==0.29.1")
ENVIRONMENTS = {
    "shared": ("lightly", "ema-pytorch", "byol-pytorch", "timm", "pyjepa", "simulusion"),
    "stable-pretraining": ("stable-pretraining",),
    "lightly-train": ("lightly-train",),
}


@dataclass(frozen=True)
class Run:
    """One audited program: ``driven`` says what it does, ``source`` where that way is documented."""

    package: str
    driver: str
    specification: tuple[str, ...]
    driven: str
    source: str
    arguments: tuple[str, ...] = ()
    environment: str = "shared"
    steps: int = 20
    note: str = ""
    unconfirmed: tuple[str, ...] = ()  # rules whose report an inspection by hand did not confirm; the note says why

    @property
    def title(self) -> str:
        return " ".join((self.driver, *self.arguments))

    @property
    def compared(self) -> str:
        return re.sub(r"--(?:spec )?", "", " ".join(self.specification)).replace("total-steps", "over")


def _spec(name: str, steps: int = 24) -> tuple[str, ...]:
    return "--spec", name, "--total-steps", str(steps)


def _cosine(start: float, steps: int = 24) -> tuple[str, ...]:
    given = {"momentum": start, "final-momentum": 1, "kind": "cosine", "total-steps": steps}
    return tuple(word for name, value in given.items() for word in (f"--{name}", str(value)))


LIGHTLY = "The example's header states that its settings do not follow the reference settings of the paper."
WARM_UP = "The README documents both: update_every=10, and copies for the first update_after_step=100 calls."
DATA_ASSIGNED = (
    "The teacher is updated by assigning to `.data`, which the auditor cannot trace: it is therefore unknown whether "
    "the update runs after the step (A) or begins the next one (B); both are correct."
)
RUNS = (
    Run(
        "lightly", "lightly_ijepa", _spec("ijepa"),
        "I-JEPA building blocks in the example's loop, ViT of 2 layers",
        "lightly-ai/lightly: examples/pytorch/ijepa.py",
        note="The overlap comes from `IJEPAMaskCollator` at its default scales (0.2, 0.8), which the example uses: "
        "if no context block fits next to the target blocks, it drops that condition. At the scales of the "
        "reference's configuration (0.15-0.2 and 0.85-1 on 14 x 14 patches) the same collator gave no overlap in 600 "
        "images. The target encoder's parameters changed only through the update.",
    ),
    Run(
        "lightly", "lightly_byol", _spec("byol", 25), "BYOL building blocks in the example's loop, ResNet-18",
        "lightly-ai/lightly: examples/pytorch/byol.py",
        note=LIGHTLY,
    ),
    Run(
        "lightly", "lightly_dino", _spec("dino", 25), "DINO building blocks in the example's loop, ResNet-18",
        "lightly-ai/lightly: examples/pytorch/dino.py", note=LIGHTLY,
    ),
    Run(
        "lightly", "lightly_moco", ("--spec", "moco"), "MoCo building blocks in the example's loop, ResNet-18",
        "lightly-ai/lightly: examples/pytorch/moco.py", note=LIGHTLY,
    ),
    Run(
        "stable-pretraining", "stable_pretraining", _spec("ijepa"), "`methods.IJEPA` with `TeacherStudentCallback()`",
        "documentation of stable_pretraining.methods.ijepa", environment="stable-pretraining",
        note="The wrapper's documentation describes its schedule as a cosine over epochs.",
    ),
    Run(
        "stable-pretraining", "stable_pretraining", _spec("ijepa"),
        "the same with `TeacherStudentCallback(update_after_backward=True)`", "documentation of TeacherStudentCallback",
        ("after-backward",), "stable-pretraining",
        note="The option's documentation states that it updates before the optimizer step.",
    ),
    Run(
        "stable-pretraining", "stable_pretraining", _cosine(0.996),
        "`TeacherStudentWrapper(resnet18())` as a mean teacher, `TeacherStudentCallback()`",
        "documentation of TeacherStudentCallback and of spt.Module", ("resnet",), "stable-pretraining",
        note="The counter `num_batches_tracked` does not affect the output at BatchNorm's default momentum.",
    ),
    Run(
        "ema-pytorch", "ema_pytorch", ("--momentum", "0.9999"), "`EMA(net)` as a teacher, defaults, first 20 steps",
        "README, Usage", note=WARM_UP,
    ),
    Run(
        "ema-pytorch", "ema_pytorch", ("--momentum", "0.9999"), "the same, first 300 steps", "README, Usage",
        ("300",), steps=300, note=f"{WARM_UP} `teacher-replaced` describes these copies. The "
        "momentum warm-up after them is documented too.",
    ),
    Run(
        "byol-pytorch", "byol_pytorch", ("--momentum", "0.99"),
        "`BYOL(resnet18())` and `update_moving_average()` after the step", "README, Usage", note=DATA_ASSIGNED,
    ),
    Run(
        "byol-pytorch", "byol_pytorch", _spec("byol"), "the same, compared with the paper's schedule", "README, Usage",
        note=f"The README gives 0.99 as the paper's value; in the paper it increases to 1. {DATA_ASSIGNED}",
    ),
    Run(
        "timm", "timm", ("--momentum", "0.9999"), "`ModelEmaV3(model)` as a teacher, `update(model)`",
        "documentation of ModelEmaV3",
    ),
    Run(
        "timm", "timm", ("--momentum", "0.9999"), "the same, `update(model, step=number)`",
        "huggingface/pytorch-image-models: train.py", ("counted",), note="The first counted update copies the model.",
    ),
    Run(
        "torch", "torch", ("--momentum", "0.999"),
        "`AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))` as a teacher",
        "documentation of torch.optim, weight averaging", note="The first update copies the model, as documented.",
    ),
    Run(
        "pyjepa", "pyjepa", _spec("ijepa"), "`train_ijepa(model, loader, epochs=3)`", "README, Quick Start",
        note="One mask setting was used: with the README's two settings the contexts differ in length, "
        "and the encoder's wrapper cannot concatenate them.",
    ),
    Run(
        "pyjepa", "pyjepa", _spec("ijepa"), "`IJEPATrainer(model, train_cfg, ijepa_cfg)`, no `iterations_per_epoch`",
        "documentation of pyjepa.training.ijepa; README, Checkpointing", ("trainer",),
        note="The schedule then advances as if an epoch had one step, so the momentum is 1 from the fourth step on and "
        "the teacher no longer changes. The README's other example passes `iterations_per_epoch`.",
    ),
    Run(
        "simulusion", "simulusion", _spec("ijepa"), '`create_model("jepa", ...)` and `train()`',
        "documentation of JEPAAgent and JEPAConfig",
    ),
    Run(
        "lightly-train", "lightly_train", _cosine(0.99, 23), '`pretrain(method="dino")`, ResNet-18, no accumulation',
        "documentation of lightly_train.pretrain", ("1",), "lightly-train",
        note="Compared with the package's own setting for small datasets: a cosine from 0.99 that reaches its end in "
        "the last of the 24 steps. The update begins the training step (order B), which Lightning runs inside the "
        "optimizer step.",
    ),
    Run(
        "lightly-train", "lightly_train", _cosine(0.99, 23), "the same with `gradient_accumulation_steps=2`",
        "documentation of lightly_train.pretrain", ("2",), "lightly-train",
        note="The second update in a step applies the momentum again, so the teacher's coefficient per step is the "
        "square of the value shown.",
    ),
)  # fmt: skip


class Environment:
    """An isolated environment with released packages and this project's auditor."""

    def __init__(self, folder: Path, packages: Sequence[str]) -> None:
        self.python = folder / "bin" / "python"
        self._ready = folder / "installed"
        self._folder, self._packages = folder, packages

    def make(self) -> None:
        if self._ready.is_file():
            return
        subprocess.run([sys.executable, "-m", "venv", str(self._folder)], check=True)
        constraints = self._folder / "constraints.txt"
        constraints.write_text("\n".join(PINNED) + "\n")
        self._install(*PINNED)
        self._install("--constraint", str(constraints), *self._packages)
        self._install("--no-deps", "--editable", str(ROOT))
        self._ready.touch()

    def _install(self, *what: str) -> None:
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([self.python, "-m", "pip", "install", *quiet, *what], check=True)

    def version(self, package: str) -> str:
        site = next(self._folder.glob("lib/python*/site-packages"))
        found = (d.version for d in metadata.distributions(path=[str(site)]) if d.name and _plain(d.name) == package)
        return next(found, "not installed").partition("+")[0]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def audit(run: Run, environment: Environment, work: Path) -> dict[str, Any] | str:
    """Return the report of one run, or why there is no full one."""
    name = run.title.replace(" ", "-") + "-" + run.specification[1]
    result = work / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [environment.python, "-m", "hjepa.audit", "--json", result, "--steps", str(run.steps)]
    command += [*run.specification, HERE / f"drive_{run.driver}.py", *run.arguments]
    variables = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder, (work / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT, check=False)
    words = (work / f"{name}.log").read_text()
    report = json.loads(result.read_text()) if result.is_file() else {"steps": 0}
    if report["steps"] == run.steps:
        return report
    errors = [line for line in words.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    return (
        f"ended after {report['steps']} of {run.steps} steps: {(errors or words.splitlines()[-1:] or ['no output'])[0]}"
    )


def shown(text: str, work: Path) -> str:
    """Return a text without the folders of this machine."""
    text = re.sub(r"\S*site-packages/", "", text)
    for folder in (str(work), str(HERE), str(ROOT)):
        text = text.replace(folder + "/", "")
    return text.replace("|", "\\|")


def measured(report: dict[str, Any]) -> str:
    """Return order, lag, frequency and momentum in one cell."""
    found = report["measured"]
    cells = [f"order {found['order']}"] if found["order"] else []
    if found["lag"] is not None:
        cells.append(f"lag {found['lag']:.2f}")
    if found["updates_per_step"] is not None:
        cells.append(f"{found['updates_per_step']:.2f} updates per step")
    pairs = zip(found["momentum"], found["momentum_error"], strict=True)
    sure = [round(value, 7) + 0.0 for value, error in pairs if error is not None and error < LEAST_CERTAIN]
    if sure:
        cells.append(f"momentum {min(sure):.6g}" + (f" to {max(sure):.6g}" if max(sure) - min(sure) > 1e-6 else ""))
    if found["schedule"]:
        cells.append(f"schedule {found['schedule']}")
    return ", ".join(cells)


SEVERITIES = ("critical", "major", "minor", "info")


def rules(report: dict[str, Any], status: str) -> list[dict[str, Any]]:
    found = [finding for finding in report["findings"] if finding["status"] == status]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding["severity"]))


def verdict(run: Run, report: dict[str, Any]) -> str:
    """Return the verdict of the findings that were confirmed, and the reported one where it differs."""
    confirmed = {f["severity"] for f in rules(report, "fail") if f["rule"] not in run.unconfirmed}
    without = "fails" if confirmed & set(SEVERITIES[:2]) else "deviates" if confirmed else "conforms"
    reported: str = report["verdict"]
    return reported if reported in (without, "inconclusive") else f"{without} (reported: {reported})"


def gone(run: Run, report: dict[str, Any] | str) -> list[str]:
    """Return unconfirmed rules that the auditor does not report any more."""
    if isinstance(report, str):
        return []
    reported = {finding["rule"] for status in ("fail", "warn") for finding in rules(report, status)}
    return [rule for rule in run.unconfirmed if rule not in reported]


def row(number: int, run: Run, version: str, report: dict[str, Any] | str) -> str:
    cells = ("no report", "–", "–")
    if not isinstance(report, str):
        failed = [f for f in rules(report, "fail") if f["rule"] not in run.unconfirmed]
        names = [f"{finding['rule']} ({finding['severity']})" for finding in failed]
        cells = (verdict(run, report), measured(report), ", ".join(names) or "none")
    return " | ".join((f"| {number}", f"{run.package} {version}", run.driven, run.compared, *cells)) + " |"


def detail(number: int, run: Run, report: dict[str, Any] | str, work: Path) -> str:
    command = " ".join((*run.specification, f"drive_{run.title.replace(' ', '.py ', 1)}"))
    command += "" if run.arguments else ".py"
    lines = [f"### {number}. {run.package}: {run.driven}", "", f"Source: {run.source}."]
    steps = f" --steps {run.steps}" if run.steps != 20 else ""
    lines += ["", f"`python -m hjepa.audit{steps} {command}`", ""]
    if isinstance(report, str):
        return "\n".join([*lines, f"No report: {shown(report, work)}", "", run.note]).rstrip()
    subject = report["subject"]
    counts = ", ".join(
        f"{len(found)} {status}"
        for status in ("pass", "fail", "warn", "not-checked")
        if (found := rules(report, status))
    )
    where = f"Student `{subject['student']}`, teacher `{subject['teacher']}`; " if subject["teacher"] else ""
    lines += [f"{where}{report['steps']} optimizer steps; rules: {counts or 'none'}.", ""]
    if report["reason"]:
        lines += [f"Reason of the verdict: {shown(report['reason'], work)}.", ""]
    for status in ("fail", "warn", "info"):
        for finding in rules(report, status):
            place = f" (`{shown(finding['location'], work)}`)" if finding["location"] else ""
            doubt = "not confirmed, " if finding["rule"] in run.unconfirmed else ""
            kind = status if status == "info" else f"{status}, {finding['severity']}"
            lines.append(f"- **{finding['rule']}** ({doubt}{kind}): {shown(finding['saw'], work)}{place}")
    return "\n".join([*lines, "", run.note]).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of environments and reports (default: a temporary one)")
    parser.add_argument("--only", nargs="+", default=[], help="run what contains one of these words")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the page to write")
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="audit-in-the-wild-"))).resolve()
    chosen = [run for run in RUNS if not options.only or any(word in run.title for word in options.only)]
    environments = {name: Environment(work / name, packages) for name, packages in ENVIRONMENTS.items()}
    (work / "reports").mkdir(parents=True, exist_ok=True)
    rows, details = [], []
    for number, run in enumerate(chosen, 1):
        environment = environments[run.environment]
        environment.make()
        report = audit(run, environment, work / "reports")
        version = environment.version(run.package)
        rows.append(row(number, run, version, report))
        details.append(detail(number, run, report, work))
        print(rows[-1], flush=True)
        for rule in gone(run, report):
            print(f"{run.title}: {rule} is no longer reported: take it out of RUNS", file=sys.stderr)
    text = (
        (HERE / "page.md")
        .read_text()
        .format(
            date=datetime.date.today().isoformat(),
            torch=PINNED[0].partition("==")[2],
            python=sys.version.split()[0],
            table="\n".join(rows),
            details="\n\n".join(details),
        )
    )
    options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
