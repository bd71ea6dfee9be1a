"""The auditor's page says what the registries say, and its Python and TOML are right."""

import ast
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hjepa.audit import TeacherAudit, assert_conforms, specs
from hjepa.audit.callbacks import LoopAudit
from hjepa.audit.judge.findings import Severity, Verdict
from hjepa.audit.judge.rule import Rule
from hjepa.audit.judge.rules import RULES
from hjepa.audit.tell import catalogue
from hjepa.audit.tell.vocabulary import RULE_WORDS

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def table(name: str) -> list[list[str]]:
    """Return the rows of a generated table as they stand on the page."""
    text = PAGE.split(f"<!-- {name}: generated -->")[1].split(f"<!-- {name}: end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.strip()]
    assert set(rows[1]) == {"---"}
    return rows[2:]


def test_the_page_is_as_it_would_be_generated_now():
    assert catalogue.filled(PAGE) == PAGE, "run: python -m hjepa.audit.tell.catalogue docs/audit.md"


def test_every_rule_stands_on_the_page_once_with_its_code_and_severity():
    rows = {row[0].strip("`"): row[1:] for row in table("rules")}
    assert len(rows) == len(table("rules")) == len(RULES) >= 40
    for rule in RULES:
        assert rows[rule.name] == [rule.code, rule.severity, RULE_WORDS[rule.name][1]]


def test_a_rule_more_or_another_severity_makes_the_page_stale(monkeypatch):
    before = catalogue.rules_table()
    first = RULES[0]
    changed = Rule(first.name, first.code, Severity.INFO, first.meaning, first.remedy, first.check)
    assert first.severity is not Severity.INFO
    monkeypatch.setattr(catalogue, "RULES", [changed, *RULES[1:]])
    assert catalogue.rules_table() != before
    monkeypatch.setattr(catalogue, "RULES", RULES[1:])
    assert catalogue.rules_table().count("\n") == before.count("\n") - 1


def test_every_published_profile_stands_on_the_page_with_its_source():
    rows = {row[0].strip("`"): row for row in table("profiles")}
    assert set(rows) == set(specs.PROFILES) - {"custom", "auto"}
    for name, row in rows.items():
        spec = specs.named(name)
        assert row[1] == spec.summary and row[2].split(", ") == sorted(spec.orders) and row[4] == spec.source


def test_verdicts_and_exit_codes():
    assert {row[0].strip("`"): int(row[1]) for row in table("verdicts")} == {v.value: v.exit_code for v in Verdict}
    assert [row[0] for row in table("severities")] == [severity.value for severity in Severity]


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match=r"no marks.*rules"):
        catalogue.filled("# Another page\n")


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_specifications_on_the_page_are_read(tmp_path, text):
    (tmp_path / "spec.toml").write_text(text)
    spec = specs.from_toml(tmp_path / "spec.toml")
    assert spec.momentum(0) == 0.996 and spec.kind == "linear" and spec.end == 1.0


def test_all_kinds_on_the_page_are_all_kinds():
    line = next(line for line in PAGE.splitlines() if "Kinds are " in line)
    named = re.findall(r"`([a-z-]+)`", line.split("Kinds are ")[1].split(". ")[0])
    assert set(named) == set(specs.KINDS) - {"any"}


CALLS: dict[str, Callable[..., Any]] = {
    "TeacherAudit": TeacherAudit,
    "LightningAudit": LoopAudit,
    "TransformersAudit": LoopAudit,
    "assert_conforms": assert_conforms,
    "ijepa": specs.ijepa,
}


@pytest.mark.parametrize("text", blocks("python"))
def test_the_python_on_the_page_names_what_exists(text):
    calls = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module != "hjepa.audit.callbacks":
            assert all(hasattr(import_module(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert {alias.name for alias in node.names} <= {"LightningAudit", "TransformersAudit"}
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rsplit(".", 1)[-1]
            if name in CALLS:
                words = {keyword.arg: None for keyword in node.keywords}
                inspect.signature(CALLS[name]).bind(*node.args, **words)
                calls += 1
    assert calls >= 1
