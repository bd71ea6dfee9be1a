"""The formats of a report: complete, in order, and safe for any text."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hjepa.audit.judge.findings import Finding, Measured, Severity, Status, Subject, TimelineEntry, Verdict
from hjepa.audit.tell.figures import momentum_figure, nice_ticks
from hjepa.audit.tell.phrases import Row, momentum_digits
from hjepa.audit.tell.report import ConformanceError, Report
from hjepa.audit.tell.timeline import Gap, events, lane_of
from hjepa.audit.tell.vocabulary import RULE_WORDS

INFO, MINOR, MAJOR, CRITICAL = Severity.INFO, Severity.MINOR, Severity.MAJOR, Severity.CRITICAL
VOID = {"meta", "br", "hr", "img", "link", "input"}
AUDIT_MD = Path(__file__).parents[2] / "docs" / "audit.md"


def passed(rule, code, saw):
    return Finding(rule, code, Status.PASS, MAJOR, saw=saw)


def not_checked(rule, code, reason):
    return Finding(rule, code, Status.NOT_CHECKED, MINOR, reason=reason)


SOUND = [
    passed("never-updated", "O5", "moved after 20 of 20 steps"),
    passed("stale-student", "O1", "lag 0.00 ± 0.01 at 20 forwards"),
    passed("update-per-microbatch", "O3", "1.00 updates per step"),
    passed("momentum-mismatch", "S6", "largest difference 3e-08 at 20 updates"),
    passed("gradient-reaches-teacher", "G1", "no gradient on 152 tensors"),
    passed("initial-mismatch", "T1", "152 of 152 tensors equal bit for bit"),
    Finding("double-update", "O7", Status.PASS, MINOR, evidence={"updates": 20, "steps_seen": 20}),
    not_checked("replicas-diverge", "D1", "one process only; start with torchrun"),
    not_checked("update-on-skipped-step", "O4", "no step was skipped"),
]
STALE = Finding(
    "stale-student", "O1", Status.FAIL, MINOR,
    saw="the teacher lacks the newest student at 20 of 20 forwards (lag 1.00 ± 0.01)",
    expected="Update after the optimizer step and before the next teacher forward.",
    evidence={"lag": 1.0},
    location="src/trainer.py:546",
    meaning="The teacher is one step older than it should be: a mild difference at this momentum.",
    remedy="  loss.backward()\n- update_teacher(m)\n  optimizer.step()\n+ update_teacher(m)",
)  # fmt: skip
COPY = Finding(
    "hard-copy", "F3", Status.FAIL, CRITICAL,
    saw="after 20 of 20 updates all sampled numbers equal the student's",
    expected="A momentum of 0.996 to 1.",
    location="ema.py:140",
    meaning="The student learns from itself; nothing is averaged.",
    remedy="- teacher.copy_(student)\n+ teacher.lerp_(student, 1 - momentum)",
)  # fmt: skip
MICRO = Finding(
    "update-per-microbatch", "O3", Status.FAIL, MAJOR,
    saw="4 updates for each optimizer step", expected="One update.", location="src/trainer.py:546",
    meaning="The momentum of a step is 0.984, not 0.996.", remedy="if step_done:\n+    update_teacher(m)",
)  # fmt: skip
FROZEN = Finding("teacher-not-frozen", "T3", Status.FAIL, INFO, saw="152 parameters ask", meaning="Costs memory.",
                 remedy="teacher.requires_grad_(False)")  # fmt: skip
BUFFERS = Finding("buffers-mishandled", "F9", Status.WARN, MINOR, saw="3 statistics stand still", remedy="copy them")
ORDER_B = Finding("order", "", Status.INFO, INFO, saw="order A was seen")


def timeline(order="A", steps=(3, 4), micro=1):
    cycle = [("teacher forward", 531), ("teacher forward ends", 531), ("student forward", 533), ("backward", 540)]
    update, step = ("teacher update", 546), ("optimizer step", 552)
    after = {"A": [step, update], "C": [update, step]}[order]
    return [
        TimelineEntry(n, what, f"src/trainer.py:{line}") for n in steps for what, line in [*(cycle * micro), *after]
    ]


def measured(order="A", lag=0.0, updates=20, **more):
    expected = [0.996 + 1.4e-6 * k for k in range(updates)]
    return Measured(
        order=order, lag=lag, lag_error=0.01, updates_per_step=1.0,
        momentum=[m + 3e-8 * (-1) ** k for k, m in enumerate(expected)], momentum_error=[4e-7] * updates,
        momentum_step=list(range(1, updates + 1)), expected=expected, schedule="linear", **more,
    )  # fmt: skip


SUBJECT = Subject(
    student="model.encoder", teacher="model.target_encoder", optimizer="AdamW", script="train.py",
    parameters=21_601_152, tensors=152, sampled=9_728, wrappers=["DistributedDataParallel"],
    discovered="same names and shapes; the teacher is in no optimizer",
)  # fmt: skip


def report(verdict=Verdict.CONFORMS, findings=SOUND, **changes):
    fields = {
        "verdict": verdict,
        "spec": "ijepa",
        "spec_source": "facebookresearch/ijepa, src/train.py",
        "nearest": ["ijepa: linear 0.996 to 1, largest difference 3e-08", "dino: cosine 0.996 to 1"],
        "steps": 20,
        "subject": SUBJECT,
        "measured": measured(),
        "findings": findings,
        "timeline": timeline(),
        "date": "2026-08-01T12:00:00+00:00",
        "versions": {"torch": "2.12.0", "python": "3.12.4", "hjepa": "0.1.0"},
    }
    return Report(**{**fields, **changes})


CONFORMING = report()
STALE_ONLY = report(
    Verdict.DEVIATES,
    [STALE if f.rule == "stale-student" else f for f in SOUND],
    measured=measured("C", 1.0),
    timeline=timeline("C"),
)
FAILING = report(
    Verdict.FAILS,
    [FROZEN, BUFFERS, STALE, MICRO, COPY, ORDER_B, *SOUND[:1], *SOUND[3:]],
    measured=measured("C", 1.0, not_identifiable=["schedule-horizon"]),
    timeline=timeline("C", micro=4),
)
UNCLEAR = report(
    Verdict.INCONCLUSIVE,
    [not_checked("never-updated", "O5", "no teacher was chosen")],
    subject=Subject(
        script="train.py",
        candidates=["student model.encoder, teacher model.target", "student model.encoder, teacher copy"],
    ),
    measured=Measured(), timeline=[], nearest=[], steps=1, reason="Two pairs fit; choose one of them.",
)  # fmt: skip
ALL = {"conforming": CONFORMING, "stale": STALE_ONLY, "failing": FAILING, "inconclusive": UNCLEAR}
every_report = pytest.mark.parametrize("one", ALL.values(), ids=ALL)


class Page(HTMLParser):
    """Reads a page, insists on balanced tags, and keeps its words, attributes and headings."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.attributes, self.headings, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def headings(markdown, level=2):
    outside = re.sub(r"^(`{3,}).*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^{'#' * level} (.*)$", outside, flags=re.MULTILINE)


def test_words_exist_for_every_rule_of_the_page():
    rules = AUDIT_MD.read_text().split("<!-- rules: generated -->")[1].split("<!-- rules: end -->")[0]
    assert set(RULE_WORDS) == set(re.findall(r"^\| `([a-z-]+)` \|", rules, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("one", "issues", "to_add"),
    [
        (CONFORMING, "Issues", False),
        (STALE_ONLY, "Deviations", False),
        (FAILING, "Critical issues", False),
        (report(findings=[BUFFERS, *SOUND]), "Warnings", False),
        (UNCLEAR, "Issues", True),
    ],
)
def test_sections_stand_in_a_reviewers_order(one, issues, to_add):
    order = [
        "Status", "Executive summary", *(["What to add"] if to_add else []), issues, "What is correct",
        "Comparison with the specification", "Momentum against the specification", "Recommendations",
        "What was not checked, and why",
    ]  # fmt: skip
    assert headings(one.to_markdown()) == order
    in_page = [h for h in Page(one.to_html()).headings if h in order or h.startswith("Status")]
    assert in_page == [f"Status: {one.verdict.value}", *order[1:]]


def test_issues_are_sorted_worst_first_and_warnings_last():
    rules = re.findall(r"^`([a-z-]+)`,", FAILING.to_markdown(), flags=re.MULTILINE)
    assert rules == ["hard-copy", "update-per-microbatch", "stale-student", "teacher-not-frozen", "buffers-mishandled"]
    assert [f.rule for f in FAILING.failures] == rules[:-1]
    assert headings(FAILING.to_markdown(), 3)[0] == "1. The update copies the student"


def test_an_issue_says_where_what_why_and_how():
    text = STALE_ONLY.to_markdown()
    issue = text[text.index("### 1.") : text.index("## What is correct")]
    labels = re.findall(r"^\*\*([A-Z][^*]+)\.\*\*", issue, flags=re.MULTILINE)
    assert labels == ["Location", "What happens now", "What the specification expects", "Impact", "Fix"]
    assert "```diff\n  loss.backward()\n- update_teacher(m)\n  optimizer.step()\n+ update_teacher(m)\n```" in issue
    listing = re.findall(r"^\d+\. .*$", issue, flags=re.MULTILINE)
    assert listing[0] == "1. step 3: teacher forward (`src/trainer.py:531`)"
    assert listing[3] == "4. **step 3: teacher update (`src/trainer.py:546`)**"
    assert listing[4] == "5. step 3: optimizer step (`src/trainer.py:552`)"
    assert len(listing) == 10  # two steps; "teacher forward ends" tells nothing new


@pytest.mark.parametrize("form", ["to_markdown", "to_html", "json_text", "to_junit"])
@pytest.mark.parametrize("field", ["saw", "expected", "meaning", "remedy", "location"])
def test_every_failure_is_told_in_full_in_each_format(form, field):
    text = getattr(FAILING, form)()
    if form == "to_html":
        text = Page(text).text
    elif form == "json_text":
        text = " ".join(str(f[field]) for f in json.loads(text)["findings"])
    elif form == "to_junit":
        text = " ".join(element.text or "" for element in ElementTree.fromstring(text).iter())
    text = " ".join(text.split())
    for finding in FAILING.failures:
        assert " ".join((getattr(finding, field) or "").split()) in text


def test_the_order_of_events_stands_once():
    text = FAILING.to_markdown()
    assert text.count("1. step 3: teacher forward") == 1
    assert re.search(r"^The order of events .*\b1\.$", text, flags=re.MULTILINE)
    assert Page(FAILING.to_html()).tags.count("polyline") >= 2
    assert CONFORMING.to_markdown().count("1. step 3: teacher forward") == 1  # among what is correct


def test_events_are_of_the_steps_that_the_evidence_names():
    one = report(timeline=timeline(steps=range(8)))
    finding = replace(STALE, evidence={"steps": [5, 6]})
    assert {event.step for event in events(one, finding)} == {5, 6}
    assert {event.step for event in events(one)} == {0, 1}
    assert events(report(timeline=[])) == []
    assert {event.step for event in events(report(timeline=timeline(steps=[7])))} == {7}


def test_a_long_step_is_shown_by_its_beginning_and_end():
    shown = events(report(timeline=timeline("C", micro=10)))
    assert len(shown) == 20
    gaps = [event for event in shown if isinstance(event, Gap)]
    assert [gap.left_out + 9 for gap in gaps] == [32, 32]
    assert re.search(r"step 3: 23 events (omitted|left out)", FAILING_LONG.to_markdown())
    Page(FAILING_LONG.to_html())


FAILING_LONG = replace(FAILING, timeline=timeline("C", micro=10))


@pytest.mark.parametrize(
    ("what", "lane"),
    [
        ("teacher forward", 0), ("target encoder forward", 0), ("student forward ends", 1), ("backward", 2),
        ("optimizer step skipped", 3), ("teacher update", 4), ("EMA update before the optimizer step", 4),
        ("gradient clipping", None), ("predictor forward", None),
    ],
)  # fmt: skip
def test_events_find_their_lane(what, lane):
    assert lane_of(what) == lane


def test_an_event_without_a_lane_is_drawn_too():
    with_clip = [*timeline(), TimelineEntry(4, "gradient clipping", "a.py:1")]
    page = report(timeline=with_clip).to_html()
    assert ">other</text>" in page
    assert ">other</text>" not in CONFORMING.to_html()


def test_a_stale_student_alone_does_not_alarm():
    for text in (STALE_ONLY.to_markdown(), Page(STALE_ONLY.to_html()).text, STALE_ONLY.summary()):
        assert "critical" not in text.lower()
        assert "different algorithm" not in text
        assert "!" not in text.replace("! warn", "")
    assert "one optimizer step older than its mean age of about 250 steps" in STALE_ONLY.to_markdown()
    assert "need not be repeated" in STALE_ONLY.to_markdown()
    assert "different algorithm" in FAILING.to_markdown()


@every_report
def test_executive_summary_is_two_sentences(one):
    text = one.to_markdown()
    summary = text[text.index("## Executive summary\n") :].split("\n\n")[1]
    assert len(re.findall(r"[.](?=\s|$)", summary)) == 2


def test_inconclusive_says_what_to_add_and_how_to_choose():
    for text in (UNCLEAR.to_markdown(), Page(UNCLEAR.to_html()).text, UNCLEAR.summary()):
        assert "two pairs fit; choose one of them" in text.lower()
        if "What to add" in text:  # the summary has no headings
            assert "Two pairs fit; choose one of them." in text[text.index("What to add") :]
        assert "--student model.encoder --teacher model.target" in text
        assert "--student model.encoder --teacher copy" in text
    other = replace(UNCLEAR, subject=Subject(candidates=["something else"]))
    assert "--student NAME --teacher NAME" in other.to_markdown()


def test_what_was_not_checked_has_its_reason():
    for text in (FAILING.to_markdown(), Page(FAILING.to_html()).text):
        end = text[text.rindex("What was not checked, and why") :]
        assert "one process only; start with torchrun" in end
        assert "schedule-horizon" in end


@every_report
def test_json_round_trip(one):
    assert json.loads(one.json_text()) == one.to_json()
    assert {"verdict", "spec", "steps", "measured", "findings", "subject", "timeline", "nearest", "date",
            "versions", "spec_source", "reason", "exit_code"} <= set(one.to_json())  # fmt: skip
    assert len(one.to_json()["findings"]) == len(one.findings)
    assert one.to_json()["findings"][0]["rule"] == one.findings[0].rule


def test_json_has_a_form_for_every_value():
    odd = {"nan": math.nan, "inf": [math.inf, -math.inf], "pair": (1, 2), "path": Path("a"), "set": {2, 1}, 3: "three",
           "severity": CRITICAL, "bytes": b"x"}  # fmt: skip
    one = report(findings=[replace(STALE, evidence=odd)], measured=Measured(momentum=[math.nan], expected=[None]))
    again = json.loads(one.json_text())
    assert again["findings"][0]["evidence"] == {
        "nan": "nan", "inf": ["inf", "-inf"], "pair": [1, 2], "path": "a", "set": [1, 2], "3": "three",
        "severity": "critical", "bytes": "b'x'",
    }  # fmt: skip
    assert again["measured"]["momentum"] == ["nan"]


@every_report
def test_page_is_balanced_and_loads_nothing(one):
    page = Page(one.to_html())
    assert "script" not in page.tags
    assert not {"src", "href", "srcset", "action", "data"} & {name for name, _ in page.attributes}
    assert "url(" not in one.to_html()
    assert "@import" not in one.to_html()
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(name in ids for key, value in page.attributes if key == "aria-labelledby" for name in value.split())
    assert page.tags.count("table") == page.tags.count("caption")
    assert page.tags.count("svg") == page.tags.count("desc")
    assert page.tags.count("h1") == 1


NASTY = '<script>alert("x")</script> | a`b | & \x00\x1b[31m'


def nasty():
    finding = replace(STALE, rule=NASTY, saw=NASTY, expected=NASTY, location=NASTY, meaning=NASTY,
                      remedy=f"```\n{NASTY}", reason=NASTY)  # fmt: skip
    return report(
        Verdict.FAILS,
        [finding, replace(finding, status=Status.NOT_CHECKED), replace(finding, status=Status.PASS)],
        subject=Subject(NASTY, NASTY, NASTY, NASTY, wrappers=[NASTY], discovered=NASTY, candidates=[NASTY]),
        spec=NASTY, spec_source=NASTY, nearest=[NASTY], reason=NASTY, date=NASTY, versions={NASTY: NASTY},
        timeline=[TimelineEntry(1, NASTY, NASTY), TimelineEntry(1, f"teacher update {NASTY}", NASTY)],
    )  # fmt: skip


def test_names_cannot_become_markup():
    page = nasty().to_html()
    assert "script" not in Page(page).tags
    assert '<script>alert("x")</script>' in Page(page).text
    markdown = nasty().to_markdown()
    fence = re.search(r"^(`{4,})\w*\n", markdown, flags=re.MULTILINE)
    assert fence, "a remedy with a fence needs a longer one"
    outside = re.sub(r"^(`{3,}).*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "<script>" not in re.sub(r"`[^`\n]+`", "", outside.replace("\\`", ""))
    for text in (page, markdown, nasty().summary(), nasty().to_junit()):
        assert "\x1b" not in text
        assert "\x00" not in text


def test_table_rows_keep_their_cells():
    rows = [line for line in nasty().to_markdown().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4, 6}  # three columns of rules, five of momentum


@every_report
def test_junit_has_one_case_for_each_rule(one):
    suite = ElementTree.fromstring(one.to_junit()).find("testsuite")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [finding.rule for finding in one.findings]
    assert {case.get("classname") for case in cases} == {"hjepa.audit"}
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == len(one.failures)
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    for case, finding in zip(cases, one.findings, strict=True):
        children = [child.tag for child in case]
        assert children == {"fail": ["failure"], "warn": ["system-out"], "info": ["system-out"], "pass": [],
                            "not-checked": ["skipped"]}[finding.status.value]  # fmt: skip
        if finding.status is Status.NOT_CHECKED:
            assert case[0].get("message") == finding.reason


def test_junit_cases_of_two_teachers_have_different_names():
    root = ElementTree.fromstring(report(findings=[STALE, STALE]).to_junit())
    assert [case.get("name") for case in root.iter("testcase")] == ["stale-student", "stale-student [2]"]


@every_report
def test_summary_fits_a_terminal(one):
    lines = one.summary().splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    assert one.verdict.value.upper() in lines[0]


def test_summary_cuts_what_is_too_long():
    wide = "x" * 3000
    many = [replace(STALE, saw=wide, remedy=wide, location=wide) for _ in range(30)]
    choices = replace(SUBJECT, candidates=[f"student {wide}, teacher b"] * 9)
    lines = replace(FAILING, findings=many, spec=wide, reason=wide, subject=choices).summary().splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) == 100
    assert any(line.endswith("…") for line in lines)


def test_summary_of_many_failures_says_how_many_are_left_out():
    many = replace(FAILING, findings=[replace(STALE, rule=f"rule-{i}") for i in range(30)])
    lines = many.summary().splitlines()
    assert len(lines) <= 25
    shown = sum(line.startswith("  FAIL") for line in lines)
    assert re.fullmatch(rf"  and {30 - shown} more\b.*report\)?", lines[-1])


def test_raise_for_failures_lists_rule_saw_and_remedy():
    CONFORMING.raise_for_failures()
    with pytest.raises(ConformanceError) as caught:
        FAILING.raise_for_failures()
    assert isinstance(caught.value, AssertionError)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(FAILING.failures)
    for line, finding in zip(lines[1:], FAILING.failures, strict=True):
        assert finding.rule in line
        assert finding.saw in line
        assert " ".join(finding.remedy.split()) in line


def test_an_audit_that_saw_too_little_does_not_pass_a_test():
    with pytest.raises(ConformanceError, match=r"inconclusive.*Two pairs fit"):
        UNCLEAR.raise_for_failures()


def test_exit_codes():
    assert [one.exit_code for one in ALL.values()] == [0, 1, 1, 3]


def test_long_momentum_tables_show_both_ends():
    text = CONFORMING.to_markdown()
    rows = re.findall(r"^\| (\d+|…) \|", text, flags=re.MULTILINE)
    assert rows == ["1", "2", "3", "4", "5", "…", "16", "17", "18", "19", "20"]
    assert "| 1 | 0.9960000 | 4.0e-07 | 0.9960000 | +3.0e-08 |" in text
    assert "The first and last 5 of 20 updates" in CONFORMING.to_html()
    short = replace(CONFORMING, measured=measured(updates=11))
    assert "…" not in short.to_markdown()
    assert "All 11 updates" in short.to_html()


@pytest.mark.parametrize(
    ("values", "digits"),
    [([0.996, 0.996], 5), ([0.99600, 0.99603], 7), ([0.9999], 6), ([0.5, 0.9], 4), ([1.0], 4), ([], 4),
     ([1e300, -1e300], 4)],
)  # fmt: skip
def test_digits_show_the_differences(values, digits):
    assert momentum_digits(values) == digits


@pytest.mark.parametrize(("low", "high"), [(0.99600, 0.99603), (0, 1), (0.9999, 1.0), (-3, 3), (0.995999, 0.996001)])
def test_ticks_are_few_different_and_inside(low, high):
    ticks, digits = nice_ticks(low, high, 5)
    labels = [f"{tick:.{digits}f}" for tick in ticks]
    assert 3 <= len(labels) == len(set(labels)) <= 6
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    assert all(abs(float(label) - tick) < 1e-9 for label, tick in zip(labels, ticks, strict=True))


def test_momentum_figure_draws_each_update_and_what_is_prescribed():
    rows = [Row(i, 0.996, 1e-6 if i else None, None if i == 2 else 0.996) for i in range(6)]
    svg = ElementTree.fromstring(momentum_figure(rows))
    classes = [element.get("class") for element in svg.iter()]
    assert classes.count("dot") == 6 + 1  # one in the legend
    assert classes.count("bar") == 5
    assert sum(e.tag == "polyline" for e in svg.iter()) == 2  # interrupted at step 2
    assert "optimizer step" in "".join(svg.itertext())


text = st.text(max_size=40)
numbers = st.floats() | st.floats(0.9, 1.0)
location = st.none() | text
findings = st.builds(
    Finding, rule=st.sampled_from(sorted(RULE_WORDS)) | text, code=text, status=st.sampled_from(Status),
    severity=st.sampled_from(Severity), saw=text, expected=text, location=location, meaning=text, remedy=text,
    reason=text, evidence=st.dictionaries(text | st.just("step"), numbers | st.integers(0, 5) | text, max_size=3),
)  # fmt: skip
measurements = st.builds(
    Measured, order=st.none() | text, lag=st.none() | numbers, lag_error=st.none() | numbers,
    updates_per_step=st.none() | numbers, momentum=st.lists(numbers, max_size=14),
    momentum_error=st.lists(numbers, max_size=14), momentum_step=st.lists(st.integers(0, 10**9), max_size=14),
    expected=st.lists(st.none() | numbers, max_size=14), schedule=st.none() | text,
    not_identifiable=st.lists(text, max_size=2),
)  # fmt: skip
words = st.lists(text, max_size=3)
subjects = st.builds(
    Subject, student=text, teacher=text, optimizer=text, script=text, parameters=st.integers(0, 10**12),
    tensors=st.integers(0, 999), sampled=st.integers(0, 999), wrappers=words, discovered=text, candidates=words,
)  # fmt: skip
what = st.sampled_from(["teacher forward", "teacher update", "backward", "optimizer step skipped"]) | text
entries = st.builds(TimelineEntry, step=st.integers(0, 4), what=what, location=location)
reports = st.builds(
    Report, verdict=st.sampled_from(Verdict), spec=text, spec_source=text, nearest=words, steps=st.integers(0, 10**6),
    subject=subjects, measured=measurements, findings=st.lists(findings, max_size=6),
    timeline=st.lists(entries, max_size=30), date=text, versions=st.dictionaries(text, text, max_size=2), reason=text,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reports)
def test_no_text_breaks_a_format(one):
    json.loads(one.json_text())
    page = Page(one.to_html())
    assert "script" not in page.tags
    one.to_html().encode()
    markdown = one.to_markdown()
    markdown.encode()
    assert len(headings(markdown, 1)) == 1
    assert {row.count("|") for row in markdown.splitlines() if row.startswith("| ")} <= {4, 6}
    cases = list(ElementTree.fromstring(one.to_junit()).iter("testcase"))
    assert len(cases) == len(one.findings)
    lines = one.summary().split("\n")
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    for svg in re.findall(r"<svg.*?</svg>", one.to_html(), flags=re.DOTALL):
        ElementTree.fromstring(svg)
    if one.failures or one.verdict is not Verdict.CONFORMS:
        with pytest.raises(ConformanceError) as caught:
            one.raise_for_failures()
        assert str(caught.value).count("\n") == len(one.failures)
