"""The rules of an audit: one small function each."""

from hjepa.audit.judge.context import RULES, Case, Rule
from hjepa.audit.judge.findings import Finding
from hjepa.audit.judge.rules import formula, gradient, jepa, order, schedule, target

__all__ = ["RULES", "Case", "Rule", "judge"]

ONE_NETWORK = "student and teacher are one network: see aliased-teacher"
_OF_ANY_NETWORK = (
    "aliased-teacher", "clip-before-unscale", "clip-per-microbatch", "accumulation-not-scaled",
    "trained-by-no-optimizer", "mask-coverage",
)  # fmt: skip
_FAMILIES = (order, formula, schedule, target, gradient, jepa)


def judge(case: Case) -> list[Finding]:
    """Return the finding of every rule."""
    if case.parts and all(part.student is part.teacher for part in case.parts):
        return [rule.judge(case) if rule.name in _OF_ANY_NETWORK else rule.skipped(ONE_NETWORK) for rule in RULES]
    return [rule.judge(case) for rule in RULES]
