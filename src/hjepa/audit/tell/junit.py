"""The report as JUnit XML, with one test case per rule."""

from collections import Counter
from xml.etree import ElementTree

from hjepa.audit.judge.findings import Finding, Result, Status
from hjepa.audit.tell.phrases import clean, fault, observed, one_line


def junit_of(report: Result) -> str:
    """Return the report as JUnit XML."""
    counts = {
        "tests": str(len(report.findings)),
        "failures": str(len(report.failures)),
        "errors": "0",
        "skipped": str(len(report.with_status(Status.NOT_CHECKED))),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": "hjepa.audit", "timestamp": clean(report.date), **counts}
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"verdict": report.verdict.value, "spec": report.spec, "steps": str(report.steps), "reason": report.reason}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": clean(value)})
    seen: Counter[str] = Counter()
    for finding in report.findings:
        seen[finding.rule] += 1
        again = f" [{seen[finding.rule]}]" if seen[finding.rule] > 1 else ""  # the same rule for another teacher
        attributes = {"classname": "hjepa.audit", "name": clean(finding.rule) + again, "time": "0"}
        _fill_case(ElementTree.SubElement(suite, "testcase", attributes), finding)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _fill_case(case: ElementTree.Element, finding: Finding) -> None:
    """Write into a test case what its rule found; a pass stays empty."""
    if finding.status is Status.NOT_CHECKED:
        ElementTree.SubElement(case, "skipped", {"message": one_line(finding.reason) or "not checked"})
        return
    if finding.status is Status.PASS:
        return
    fields = {
        "Severity": finding.severity.value,
        "Location": finding.location or "",
        "Saw": observed(finding),
        "Expected": finding.expected,
        "Meaning": finding.meaning,
        "Remedy": finding.remedy,
    }
    text = clean("\n".join(f"{name}: {value}" for name, value in fields.items() if value))
    if finding.status is Status.FAIL:
        message = one_line(observed(finding)) or one_line(fault(finding))
        element = ElementTree.SubElement(case, "failure", {"type": finding.severity.value, "message": message})
        element.text = text
    else:
        ElementTree.SubElement(case, "system-out").text = f"{finding.status.value}\n{text}"
