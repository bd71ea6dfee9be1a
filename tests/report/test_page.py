"""The page of a run: complete at every stage, self-contained, accessible, repeatable, never half written."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from hjepa.errors import UserError
from hjepa.report import page, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
RUN: dict[str, Any] = {
    "format": 1,
    "status": "finished",
    "command": "hjepa pretrain scenes --out runs/demo --recipe demo",
    "repeat": "hjepa pretrain scenes --out runs/demo --recipe demo --seed 0",
    "created": "2026-01-02T03:04:05+00:00",
    "finished": None,
    "versions": {"hjepa": "0.1.0", "torch": "2.14.1"},
    "git": {"commit": "3f2a91c", "dirty": True},
    "hardware": {"cpu": "a processor", "cores": 2, "memory_gb": 24, "device": "cpu"},
    "data": {"source": "scenes:train", "images": 50000, "fingerprint": "8c1e2f"},
    "seed": 0,
    "precision": "bf16",
    "attention": "plain",
    "parameters": {"context_encoder": 2670000, "predictor": 400000},
    "steps": 2340,
    "total_steps": 2340,
    "images": 299520,
    "images_per_second": 430.0,
    "seconds": 700.0,
    "skipped_steps": 0,
    "verdict": {"verdict": "healthy", "evidence": "effective rank 23 of 192", "next_step": "evaluate it"},
    "verdict_history": [
        {"step": 10, "verdict": "watch", "evidence": "too early"},
        {"step": 60, "verdict": "healthy", "evidence": "rising"},
    ],
}
METRIC_KEYS = [
    "step",
    "epoch",
    "images",
    "loss",
    "loss_mean_token",
    "loss_position_mean",
    "relative_loss",
    "target_std",
    "prediction_std",
    "effective_rank",
    "cross_sample_gap",
    "teacher_distance",
    "momentum",
    "lr",
    "weight_decay",
    "grad_norm",
    "skipped",
    "images_per_second",
    "data_wait",
    "memory_gb",
    "verdict",
]
EVALUATION: dict[str, Any] = {
    "results": [
        {
            "protocol": "knn",
            "pooling": "avg",
            "level": "last",
            "labels": "texture",
            "k": 20,
            "accuracy": 0.716,
            "interval": [0.707, 0.725],
            "n_train": 60000,
            "n_test": 10000,
            "controls": {"random_init": 0.589, "raw_pixels": 0.861},
            "control_intervals": {"random_init": [0.579, 0.599], "raw_pixels": None},
            "chance": 0.1,
        }
    ],
    "conclusion": "Better than random-init, below raw pixels.",
    "train": "scenes:probe-train",
    "test": "scenes:probe-test",
}
MASKS = {
    "svg": '<?xml version="1.0"?><svg viewBox="0 0 8 8"><rect width="8" height="8"/></svg>',
    "grid": [8, 8],
    "context_tokens": 31,
    "context_coverage_min": 0.31,
}


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text by element, and whether tags balance."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def all_text(self) -> str:
        return "\n".join(text for element, text in self.text if element != "style")


def metric_line(step: int) -> dict[str, Any]:
    numbers = {key: 0.1 + index / 7 + step / 100 for index, key in enumerate(METRIC_KEYS)}
    return {**numbers, "step": step, "images": step * 128, "skipped": 0, "verdict": "healthy"}


def make_run(folder: Path, *, lines: int = 0, files: dict[str, Any] | None = None, **changed: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**RUN, **changed}))
    if lines:
        text = "".join(json.dumps(metric_line(10 * (i + 1))) + "\n" for i in range(lines))
        (folder / "metrics.jsonl").write_text(text)
    for name, content in (files or {}).items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def read(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {
        "config.yaml": "train:\n  steps: 2340  # recipe demo\n",
        "evaluation.json": EVALUATION,
        "masks.json": MASKS,
    }
    return make_run(tmp_path_factory.mktemp("runs") / "demo", lines=12, files=files)


@pytest.fixture(scope="module")
def full_page(full_run: Path) -> str:
    return read(full_run)


def test_page_needs_no_network_and_no_script(full_page: str) -> None:
    parsed = Page(full_page)
    assert parsed.count("script") == parsed.count("link") == parsed.count("iframe") == 0
    for _, attributes in parsed.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value is not None and value.startswith("#")
    assert "@import" not in full_page
    assert re.findall(r"url\((?!#)", full_page) == []
    policy = [a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and str(policy[0]).startswith("default-src 'none'")


def test_page_is_well_formed_and_names_are_unique(full_page: str) -> None:
    parsed = Page(full_page)  # asserts that every end tag closes the innermost open one
    assert parsed.open == []
    names = Counter(a["id"] for _, a in parsed.elements if "id" in a)
    assert [name for name, times in names.items() if times > 1] == []
    references = re.findall(r'(?:aria-labelledby|xlink:href)="#?([^"]+)"|url\(#([^)]+)\)', full_page)
    assert {first or second for first, second in references} <= set(names)


def test_page_can_be_read_without_seeing_the_pictures(full_page: str) -> None:
    parsed = Page(full_page)
    assert parsed.elements[0] == ("html", {"lang": "en"})
    assert parsed.count("h1") == 1
    assert parsed.count("table") == parsed.count("caption") == 3
    plots = [a for tag, a in parsed.elements if tag == "svg" and a.get("class") == "plot"]
    assert len(plots) == 10
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in plots)
    titles = [text for element, text in parsed.text if element == "title"]
    assert "Effective rank, by step. effective rank: first 1.486, last 2.586" in "\n".join(titles)


def test_full_page_shows_what_the_run_knows(full_page: str) -> None:
    text = Page(full_page).all_text()
    for words in (
        "Verdict: healthy",
        "effective rank 23 of 192",
        "evaluate it",
        RUN["repeat"],
        "2,340 of 2,340 steps, 299,520 images in 11 min 40 s at 430 images/s.",
        "3f2a91c, with uncommitted changes",
        "steps: 2340  # recipe demo",
        "Better than random-init, below raw pixels.",
        "it usually falls and then rises",
        "8 × 8",
    ):
        assert words in text
    cells = [text for element, text in Page(full_page).text if element in ("td", "span")]
    accuracies = ["71.6", "58.9", "86.1", "10.0"]  # pretrained, random-init, raw pixels, chance
    assert [cell for cell in cells if cell in accuracies] == accuracies
    assert "[70.7, 72.5]" in cells and "[57.9, 59.9]" in cells


@pytest.mark.parametrize("key", METRIC_KEYS)
def test_every_measure_is_on_the_page(full_page: str, key: str) -> None:
    assert ("code", key) in Page(full_page).text


def test_measures_nobody_foresaw_are_shown_too(tmp_path: Path) -> None:
    line = {"step": 1, "loss": 0.5, "level_2_loss": 0.25}
    text = Page(read(make_run(tmp_path / "run", files={"metrics.jsonl": json.dumps(line)}))).text
    assert ("code", "level_2_loss") in text
    assert ("td", "0.25") in text


def test_every_level_has_its_rows_and_curves(tmp_path: Path) -> None:
    levels = [{"loss": 0.25, "cross_sample_gap": 0.75, "target_std": 0.5}, {"loss": 0.5, "cross_sample_gap": 0.125}]
    lines = [{"step": step, "loss": 0.5, "regulariser": 0.1, "levels": levels} for step in (1, 2, 3)]
    text = "\n".join(json.dumps(line) for line in lines)
    source = read(make_run(tmp_path / "run", files={"metrics.jsonl": text}))
    page = Page(source)
    assert ("code", "level 0 cross_sample_gap") in page.text and ("code", "level 1 loss") in page.text
    assert ("td", "0.125") in page.text
    assert ("code", "levels") not in page.text
    assert "Cross-sample gap of each level" in source and "variance-covariance term" in source
    one = Page(read(make_run(tmp_path / "one", lines=3)))
    assert "of each level" not in one.all_text()


def test_verdict_changes_are_numbered_on_the_curves(full_page: str) -> None:
    texts = Page(full_page).text
    assert [text for element, text in texts if element == "text"].count("2") >= 9
    assert ("th", "watch") in texts and ("th", "healthy") in texts


def test_run_that_has_just_started(tmp_path: Path) -> None:
    parsed = Page(read(make_run(tmp_path / "run", status="running", verdict=None, verdict_history=[], steps=0)))
    assert "No verdict yet" in parsed.all_text()
    assert "No step has been logged yet" in parsed.all_text()
    assert "Not evaluated yet." in parsed.all_text()
    assert parsed.count("svg") == 0


def test_run_with_one_line_of_metrics(tmp_path: Path) -> None:
    parsed = Page(read(make_run(tmp_path / "run", lines=1, status="stopped")))
    assert parsed.count("svg") == 9
    assert "hjepa pretrain DATA --out RUN --resume" in parsed.all_text()


def test_evaluation_without_metrics(tmp_path: Path) -> None:
    parsed = Page(read(make_run(tmp_path / "run", files={"evaluation.json": EVALUATION})))
    assert parsed.count("svg") == 1
    assert ("td", "71.6") in parsed.text


def test_missing_values_are_dashes(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", files={"evaluation.json": {"results": [{"protocol": "knn"}]}, "masks.json": MASKS}
    )
    (folder / "run.json").write_text("{}")
    nothing = dict.fromkeys(METRIC_KEYS) | {"step": 1}
    (folder / "metrics.jsonl").write_text(json.dumps(nothing))
    source = read(folder)
    parsed = Page(source)
    assert parsed.text.count(("td", "–")) > 20
    assert re.findall(r"<td[^>]*>\s*</td>", source) == []
    assert "– of – steps, – images in –." in parsed.all_text()
    assert "Not logged in this run." in parsed.all_text()
    assert "None" not in parsed.all_text() and "Undefined" not in parsed.all_text()


def test_values_of_another_kind_do_not_stop_the_page(tmp_path: Path) -> None:
    odd: dict[str, Any] = {key: "odd" for key in RUN} | {
        "verdict_history": [3, {"step": "x"}],
        "parameters": [1],
    }
    files = {
        "evaluation.json": {"results": [3, {"accuracy": "high", "interval": [1], "controls": 4}]},
        "masks.json": {"svg": 7, "grid": 4},
        "metrics.jsonl": '{"step": "x"}\n[1]\n\n{"step": 1, "loss": "NaN", "grad_norm": -1, "lr": 1e999}\n{"',
    }
    text = Page(read(make_run(tmp_path / "run", files=files, **odd))).all_text()
    assert "metrics.jsonl: 1 broken line skipped." in text


def test_diverged_numbers_can_be_drawn(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 10.0**step, "grad_norm": 0.0} for step in (1, 25, 29)]
    lines.append({"step": 300, "loss": float("nan"), "grad_norm": float("inf")})
    text = "\n".join(json.dumps(line) for line in lines)
    assert Page(read(make_run(tmp_path / "run", files={"metrics.jsonl": text}))).count("svg") == 2


def test_a_broken_file_is_named_on_the_page(tmp_path: Path) -> None:
    text = Page(read(make_run(tmp_path / "run", files={"evaluation.json": "{", "masks.json": "[]"}))).all_text()
    assert "evaluation.json could not be read" in text
    assert "masks.json does not hold a JSON object." in text


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    bad = "<script>alert('$x_1$ 文')</script>"
    result = {**EVALUATION["results"][0], "labels": bad, "controls": {bad: 0.5}}
    files = {
        "evaluation.json": {"results": [result], "conclusion": bad, "train": bad},
        "config.yaml": bad,
        "metrics.jsonl": json.dumps({"step": 1, bad: 1, "loss": 1.0, "verdict": bad}),
    }
    changed: dict[str, Any] = {
        "command": bad,
        "repeat": None,
        "verdict": {"verdict": bad, "evidence": bad, "next_step": bad},
    }
    parsed = Page(read(make_run(tmp_path / "<script>x & 文", files=files, versions={bad: bad}, **changed)))
    assert parsed.count("script") == 0
    assert ("h1", "<script>x & 文") in parsed.text
    assert sum(bad in text for _, text in parsed.text) >= 8
    assert any(element == "text" and "<script>" in text for element, text in parsed.text)


def test_same_run_gives_the_same_bytes(full_run: Path, full_page: str, tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(full_run, copy)
    (copy / "report.html").unlink()
    program = (
        "import sys; from pathlib import Path; from hjepa.report import write_report; "
        "write_report(Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", program, str(copy)], check=True, env=environment)
    assert (copy / "report.html").read_text(encoding="utf-8") == full_page


def test_settings_of_the_reader_stay_as_they_were(tmp_path: Path) -> None:
    files = {"metrics.jsonl": '{"step": 1, "loss": 1.0}', "evaluation.json": EVALUATION}
    before = dict(matplotlib.rcParams)
    assert read(make_run(tmp_path / "run", files=files)).count("</svg>") == 2
    assert dict(matplotlib.rcParams) == before


def test_failure_while_rendering_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    before = read(run)

    def fail(context: object) -> str:
        raise RuntimeError("stopped in the middle")

    monkeypatch.setattr(page, "_render", fail)
    with pytest.raises(RuntimeError):
        write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == before


def test_full_disk_leaves_the_old_page_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = read(run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a write past 1,000 bytes fails
    try:
        with pytest.raises(UserError, match=r"report\.html cannot be written \(File too large\)"):
            write_report(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run / "report.html").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in run.iterdir()) == ["report.html", "run.json"]


def test_folder_without_run_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path} is not a run.*run\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_broken_run_json_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", files={"run.json": '{"format": 1'})
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        write_report(run)
    assert not (run / "report.html").exists()
