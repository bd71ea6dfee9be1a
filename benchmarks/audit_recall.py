"""Recall and false positives of the auditor over the corpus of loops (tests/faulty_loops, tests/sound_loops).

    python benchmarks/audit_recall.py [--markdown FILE]

Every row of tests/audit/loops.py is audited in a process of its own, forked from one that has imported torch. A bug
counts as detected if its own rule fires; "other rules fired" lists rules that fire although the bug does not imply
them. Rows that need several processes are started with torchrun.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from audit.loops import LOOPS, Loop  # noqa: E402
from audit.test_forks import Forks  # noqa: E402

AT_WORK = threading.local()  # each worker has a process of its own from which it forks
FORKS: list[Forks] = []
NOTHING = {"findings": [], "steps": 0, "subject": {}}


def audit(loop: Loop) -> dict:
    """Return the report of one row as JSON."""
    words = [*loop.options, loop.script, *loop.arguments]
    if loop.launch == "torchrun":
        return torchrun(words)
    if not hasattr(AT_WORK, "forks"):
        AT_WORK.forks = Forks()
        FORKS.append(AT_WORK.forks)
    return AT_WORK.forks.run(words, TESTS).report or NOTHING


def torchrun(words: list[str]) -> dict:
    """Audit with two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "audit.json")
        command = [*launcher, "-m", "hjepa.audit", "--json", str(out), *words]
        with Path(folder, "output.txt").open("w") as output:
            subprocess.run(command, cwd=TESTS, stdout=output, stderr=output, env=environment, check=False)
        return json.loads(out.read_text()) if out.is_file() else NOTHING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--workers", type=int, default=2, help="audits that run at the same time")
    options = parser.parse_args()
    began = time.monotonic()
    lines = ["| loop | options | injected bug | detected | other rules fired | verdict |", "|---|---|---|---|---|---|"]
    faulty = caught = besides = sound = alarms = 0
    found: list[bool] = []
    with ThreadPoolExecutor(options.workers) as workers:
        for loop, report in zip(LOOPS, workers.map(audit, LOOPS), strict=True):
            fired = {f["rule"] for f in report["findings"] if f["status"] in ("fail", "warn")}
            if "--student" not in loop.options:
                found.append(bool(report["steps"] and report["subject"].get("teacher")))
            extra = fired - {loop.rule} - loop.implied
            if loop.rule is None:
                sound, alarms = sound + 1, alarms + bool(fired)
            else:
                faulty, caught, besides = faulty + 1, caught + (loop.rule in fired), besides + bool(extra)
            hit = "" if loop.rule is None else "yes" if loop.rule in fired else "NO"
            cells = (
                Path(loop.script).stem,
                " ".join([*loop.options, *loop.arguments]),
                loop.rule or "none (correct)",
                hit,
                ", ".join(sorted(extra)),
            )
            lines.append(f"| {' | '.join(cells)} | {report.get('verdict', 'none')} |")
            print(lines[-1], flush=True)
    scripts = len({loop.script for loop in LOOPS if loop.rule}), len({loop.script for loop in LOOPS if not loop.rule})
    summary = [
        f"injected bugs detected by the expected rule: {caught} of {faulty} audits ({scripts[0]} scripts)",
        f"audits of faulty loops in which an unrelated rule fired: {besides} of {faulty}",
        f"audits of correct loops with a failure or a warning: {alarms} of {sound} ({scripts[1]} scripts)",
        f"audits in which teacher and student were detected without arguments: {sum(found)} of {len(found)}",
    ]
    for forks in FORKS:  # the system counts the time of processes that have ended
        forks.close()
    minutes = (time.monotonic() - began) / 60
    used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) / 60
    summary.append(
        f"duration: {minutes:.1f} minutes with {options.workers} workers; {used:.1f} minutes of processor time"
    )
    print("\n".join(summary))
    if options.markdown:
        options.markdown.write_text("\n".join(["\n".join(f"- {line}" for line in summary), "", *lines, ""]))


if __name__ == "__main__":
    main()
