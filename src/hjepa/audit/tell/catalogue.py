"""Tables of all rules and specifications, for the marked places in ``docs/audit.md``.

Regenerate them with ``python -m hjepa.audit.tell.catalogue docs/audit.md``.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hjepa.audit.judge.findings import Verdict
from hjepa.audit.judge.rules import RULES
from hjepa.audit.specs import PROFILES, Spec
from hjepa.audit.tell.vocabulary import RULE_WORDS, SEVERITIES, VERDICTS


def rules_table() -> str:
    """Return every rule with its code, severity and failure, in the order of the vocabulary."""
    places = list(RULE_WORDS)
    rows = [
        (f"`{rule.name}`", rule.code, rule.severity.value, RULE_WORDS[rule.name][1])
        for rule in sorted(RULES, key=lambda rule: places.index(rule.name))
    ]
    return _table(("rule", "code", "severity", "problem"), rows)


def severities_table() -> str:
    """Return what each severity means."""
    return _table(("severity", "meaning"), [(severity.value, words) for severity, words in SEVERITIES.items()])


def verdicts_table() -> str:
    """Return what each verdict means, with its exit code."""
    rows = [(f"`{verdict.value}`", str(verdict.exit_code), VERDICTS[verdict]) for verdict in Verdict]
    return _table(("verdict", "exit code", "meaning"), rows)


def profiles_table() -> str:
    """Return what each published specification prescribes, with its source."""
    rows = []
    for name, profile in PROFILES.items():
        if name not in ("custom", "auto"):
            spec = profile()
            orders = ", ".join(sorted(spec.orders))
            rows.append((f"`{name}`", spec.summary, orders, _further(spec), spec.source))
    return _table(("name", "momentum", "order", "other", "source"), rows)


def _further(spec: Spec) -> str:
    """Return what else the specification prescribes, in a few words."""
    said = {
        "targets normalised": spec.target_normalisation is not None,
        "teacher may start with other weights": spec.initial == "any",
        "dropout allowed in the teacher": spec.stochastic_teacher == "allowed",
        "no update on skipped steps": spec.on_skipped_step == "forbidden",
    }
    return ", ".join(words for words, holds in said.items() if holds)


TABLES = {"rules": rules_table, "severities": severities_table, "verdicts": verdicts_table, "profiles": profiles_table}


def filled(page: str) -> str:
    """Return ``page`` with every table between its marks brought up to date."""
    for name, table in TABLES.items():
        mark = re.compile(rf"(?<=<!-- {name}: generated -->\n).*?(?=<!-- {name}: end -->)", re.DOTALL)
        if not mark.search(page):
            raise ValueError(f"the page has no marks for the table of {name}")
        before, after = mark.split(page)
        page = f"{before}\n{table()}\n\n{after}"
    return page


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        file = Path(argument)
        file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
