"""The rules of an audit: one small function each."""

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Finding
from hjepa.audit.judge.rule import rules_of
from hjepa.audit.judge.rules import buffers, formula, gradient, jepa, order, schedule, target

__all__ = ["RULES", "judge"]

ONE_NETWORK = "student and teacher are the same network: see aliased-teacher"
_OF_ANY_NETWORK = (
    "aliased-teacher", "clip-before-unscale", "clip-per-microbatch", "accumulation-not-scaled",
    "trained-by-no-optimizer", "mask-coverage",
)  # fmt: skip
SHARED = "teacher and student share memory: see aliased-teacher"
_OF_SEPARATE_NETWORKS = ("student-modified", "double-update")
# The order of the findings in every report.
_FAMILIES = (formula, buffers, gradient, jepa, order, schedule, target)
RULES = [rule for family in _FAMILIES for rule in rules_of(family)]


def judge(audit: AuditContext) -> list[Finding]:
    """Return the finding of every rule."""
    if audit.one_network:
        return [rule.judge(audit) if rule.name in _OF_ANY_NETWORK else rule.skipped(ONE_NETWORK) for rule in RULES]
    if audit.shares_memory:  # each write to one is a write to the other
        return [rule.skipped(SHARED) if rule.name in _OF_SEPARATE_NETWORKS else rule.judge(audit) for rule in RULES]
    return [rule.judge(audit) for rule in RULES]
