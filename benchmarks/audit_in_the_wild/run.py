"""Released packages audited from outside: each one's own teacher update, driven in its documented way.

Usage:  python benchmarks/audit_in_the_wild/run.py [--table second] [--work FOLDER] [--only WORD ...] [--output FILE]

Makes isolated environments in the folder (kept and used again when it exists; a temporary one by default),
installs the released packages, runs ``python -m hjepa.audit`` on the drive_*.py of a table, and writes that table
into docs/audit-in-the-wild.md. Random tensors only: no data set and no weights are downloaded.
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
from pathlib import Path
from typing import Any

from first_table.runs import RUNS as FIRST
from programs import Run
from second_table.runs import RUNS as SECOND

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUTPUT = ROOT / "docs" / "audit-in-the-wild.md"
LEAST_CERTAIN = 0.01  # standard error above which a measured momentum is not shown
PINNED = ("torch==2.14.1", "torchvision==0.29.1")
ENVIRONMENTS = {
    "shared": ("lightly", "ema-pytorch", "byol-pytorch", "timm", "pyjepa", "simulusion"),
    "stable-pretraining": ("stable-pretraining",),
    "lightly-train": ("lightly-train",),
    "second": (
        "vit-pytorch", "torch-ema", "pytorch-ignite", "diffusers", "denoising-diffusion-pytorch", "stable-baselines3",
        "lightning", "lightly", "timm",
    ),
}  # fmt: skip
ALONE = {"second": ("solo-learn",)}  # installed without what they require: an older torch
BEGIN, END = "<!-- second table: begin -->", "<!-- second table: end -->"


class Environment:
    """An isolated environment with released packages and this project's auditor."""

    def __init__(self, folder: Path, packages: Sequence[str], alone: Sequence[str] = ()) -> None:
        self.python = folder / "bin" / "python"
        self._ready = folder / "installed"
        self._folder, self._packages, self._alone = folder, packages, alone

    def make(self) -> None:
        if self._ready.is_file():
            return
        subprocess.run([sys.executable, "-m", "venv", str(self._folder)], check=True)
        constraints = self._folder / "constraints.txt"
        constraints.write_text("\n".join(PINNED) + "\n")
        self._install(*PINNED)
        self._install("--constraint", str(constraints), *self._packages)
        self._install("--no-deps", "--editable", str(ROOT), *self._alone)
        self._ready.touch()

    def _install(self, *what: str) -> None:
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([self.python, "-m", "pip", "install", *quiet, *what], check=True)

    def version(self, package: str) -> str:
        ask = f"from importlib import metadata; print(metadata.version({package!r}))"
        found = subprocess.run([self.python, "-c", ask], capture_output=True, text=True, check=False)
        return found.stdout.strip().partition("+")[0] or "not installed"


def audit(run: Run, environment: Environment, work: Path) -> dict[str, Any] | str:
    """Return the report of one run, or why there is no full one."""
    name = "-".join([run.title.replace(" ", "-"), *run.specification[1:2]])
    result = work / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [environment.python, "-m", "hjepa.audit", "--json", result, "--steps", str(run.steps)]
    command += [*run.specification, HERE / f"{run.table}_table" / f"drive_{run.driver}.py", *run.arguments]
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
    for folder in (work, HERE / "first_table", HERE / "second_table", HERE, ROOT):
        text = text.replace(f"{folder}/", "")
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
    parser.add_argument("--table", choices=("first", "second"), default="first", help="which table to make")
    parser.add_argument("--work", type=Path, help="folder of environments and reports (default: a temporary one)")
    parser.add_argument("--only", nargs="+", default=[], help="run what contains one of these words")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the page to write")
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="audit-in-the-wild-"))).resolve()
    runs = FIRST if options.table == "first" else SECOND
    chosen = [run for run in runs if not options.only or any(word in run.title for word in options.only)]
    environments = {
        name: Environment(work / name, packages, ALONE.get(name, ())) for name, packages in ENVIRONMENTS.items()
    }
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
    template = HERE / ("page.md" if options.table == "first" else "second_table/page.md")
    text = template.read_text().format(
        date=datetime.date.today().isoformat(),
        torch=PINNED[0].partition("==")[2],
        python=sys.version.split()[0],
        table="\n".join(rows),
        details="\n\n".join(details),
    )
    options.output.write_text(placed(text, options.table, options.output), encoding="utf-8")


def placed(text: str, table: str, page: Path) -> str:
    """Return the page with one of its two tables made anew; the other stays as it is."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, _, rest = old.partition(BEGIN)
    if table == "first":
        second = rest.partition(END)[0]
        return f"{text.rstrip()}\n\n{BEGIN}{second}{END}\n" if second else text
    return f"{before.rstrip()}\n\n{BEGIN}\n\n{text.strip()}\n\n{END}\n"


if __name__ == "__main__":
    main()
