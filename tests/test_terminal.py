"""What is printed is what was meant."""

import io
import re

import pytest
from rich.console import Console

from hjepa import terminal
from hjepa.terminal import EvaluationProgress, Terminal, new_console


def test_names_are_printed_as_they_are(capsys):
    text = "data       fashion-mnist:train: 60,000 images in [red]photos[/red] of :smile:"
    Terminal(new_console(to_stderr=False)).on_notice(text)
    assert capsys.readouterr().out == text + "\n"


def test_images_done_are_a_line_now_and_then_with_the_time_left(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with EvaluationProgress(new_console(to_stderr=False)) as progress:
        progress.on_line("extracting features: 60,000 images")
        for done in range(0, 60_001, 100):  # 100 images per second
            progress.on_images(done, 60_000)
            now += 1.0
        progress.on_line("knn, label, avg")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "extracting features: 60,000 images" and lines[-1] == "knn, label, avg"
    assert lines[1] == "1,000/60,000 images  100 images/s  ETA 10 min"
    assert lines[-2] == "59,000/60,000 images  100 images/s  ETA 10 s"
    assert len(lines) == 2 + 59


def test_images_done_are_a_bar_on_a_terminal_that_goes_when_they_are(monkeypatch):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, emoji=False)
    with EvaluationProgress(console) as progress:
        progress.on_images(30, 90)
        assert progress.bar is not None
        progress.bar.refresh()
        assert re.search(r"30/90", out.getvalue())
        progress.on_images(90, 90)
        assert progress.bar is None
    with pytest.raises(KeyboardInterrupt), EvaluationProgress(console) as progress:
        progress.on_images(30, 90)
        raise KeyboardInterrupt
    assert progress.bar is None  # or else the cursor would stay hidden
