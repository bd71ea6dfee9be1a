"""Recall and false positives of the auditor over the corpus of loops (tests/faulty_loops, tests/sound_loops).

    python benchmarks/audit_recall.py [--markdown FILE]

Every row of tests/audit/loops.py is audited in a separate process, without arguments that name modules. A bug
counts as detected if its own rule fires; "other rules fired" lists rules that fire although the bug does not
imply them. Rows that need several processes are started with torchrun.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS / "audit"))

from loops import LOOPS, Loop  # noqa: E402


def audit(loop: Loop, folder: Path) -> dict:
    """Return the report of one row as JSON."""
    out = folder / "audit.json"
    out.unlink(missing_ok=True)
    words = ["-m", "hjepa.audit", "--json", str(out), *loop.options, loop.script, *loop.arguments]
    launcher = [sys.executable]
    if loop.launch == "torchrun":
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("w") as output:
        subprocess.run([*launcher, *words], cwd=TESTS, stdout=output, stderr=output, env=environment, check=False)
    return json.loads(out.read_text()) if out.is_file() else {"findings": [], "steps": 0, "subject": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    lines = ["| loop | options | injected bug | detected | other rules fired | verdict |", "|---|---|---|---|---|---|"]
    faulty = caught = besides = sound = alarms = found = 0
    with tempfile.TemporaryDirectory() as name:
        for loop in LOOPS:
            report = audit(loop, Path(name))
            fired = {f["rule"] for f in report["findings"] if f["status"] in ("fail", "warn")}
            found += bool(report["steps"] and report["subject"].get("teacher"))
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
        f"audits in which teacher and student were detected without arguments: {found} of {len(LOOPS)}",
    ]
    print("\n".join(summary))
    if options.markdown:
        options.markdown.write_text("\n".join(["\n".join(f"- {line}" for line in summary), "", *lines, ""]))


if __name__ == "__main__":
    main()
