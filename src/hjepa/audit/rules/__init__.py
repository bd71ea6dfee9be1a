"""The rules of an audit: one small function each."""

from hjepa.audit.findings import Finding
from hjepa.audit.rules import formula, gradient, jepa, order, schedule, target
from hjepa.audit.rules.case import RULES, Case, Rule

__all__ = ["RULES", "Case", "Rule", "judge"]

_FAMILIES = (order, formula, schedule, target, gradient, jepa)


def judge(case: Case) -> list[Finding]:
    """Return the finding of every rule."""
    return [rule.judge(case) for rule in RULES]
