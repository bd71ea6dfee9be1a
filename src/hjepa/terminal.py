"""Terminal output of training and evaluation: a progress bar on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hjepa.config import Resolved
from hjepa.runs.callback import TrainingCallback
from hjepa.training.health import Verdict


class Terminal(TrainingCallback):
    """Prints the configuration, the logged lines, and every change of the verdict."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.total_steps = 0

    def on_start(self, resolved: Resolved, record: Mapping[str, Any], first_step: int) -> None:
        """Summarise the run in a few lines."""
        for line in opening_lines(resolved, record, first_step):
            self._say(line)
        self.total_steps = resolved.config.horizon.steps or 0
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=24), TimeRemainingColumn(compact=True),
                TextColumn("{task.description}"), console=self.console,
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total_steps, completed=first_step)

    def on_line(self, line: dict[str, Any], total_steps: int) -> None:
        """Show the latest measurements."""
        if self.bar is not None:
            self.bar.update(self.task, completed=line["step"], total=total_steps, description=measures_text(line))
            return
        batch = line["images"] / max(line["step"], 1)
        remaining = (total_steps - line["step"]) * batch / max(line["images_per_second"], 0.1)
        self._say(
            f"step {line['step']:,}/{total_steps:,}  {measures_text(line)}  "
            f"ETA {duration(remaining)}  {line['verdict']}"
        )

    def on_verdict(self, step: int, verdict: Verdict) -> None:
        """Print a new verdict."""
        self._say(f"verdict at step {step:,}: {verdict}")

    def on_notice(self, text: str) -> None:
        """Print a notice."""
        self._say(text)

    def close(self) -> None:
        """Remove the progress bar."""
        if self.bar is not None:
            self.bar.stop()

    def _say(self, text: str) -> None:
        # Paths and names may contain brackets, so markup is off.
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


LINE_SECONDS = 10.0
"""Time between two lines about images done, where there is no bar."""


class EvaluationProgress:
    """Prints each measurement of an evaluation as it begins, and how many images have been encoded, with an ETA."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.start: float | None = None  # when the first batch was done: loading the first one says little
        self.first = self.last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_bar()

    def on_line(self, line: str) -> None:
        """Print the measurement that begins."""
        self._remove_bar()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_images(self, done: int, total: int) -> None:
        """Show how many images have been encoded."""
        if self.console.is_terminal:
            if self.bar is None:
                self.bar = Progress(
                    TextColumn("images"), MofNCompleteColumn(), BarColumn(bar_width=24),
                    TimeRemainingColumn(compact=True), console=self.console, transient=True,
                )  # fmt: skip
                self.bar.start()
                self.task = self.bar.add_task("", total=total)
            self.bar.update(self.task, completed=done)
            if done == total:
                self._remove_bar()
            return
        now = time.monotonic()
        if self.start is None:
            self.start, self.first, self.last = now, done, now
        elif now - self.last >= LINE_SECONDS and done < total:
            pace = (done - self.first) / (now - self.start)
            self.last = now
            self.on_line(
                f"{done:,}/{total:,} images  {pace:.0f} images/s  ETA {duration((total - done) / max(pace, 1e-9))}"
            )

    def _remove_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def opening_lines(resolved: Resolved, record: Mapping[str, Any], first_step: int) -> list[str]:
    """Summarise the run, with the reasons for automatic choices."""
    config, origin = resolved.config, resolved.origin
    model, data = config.model, record["data"]
    counts = record["parameters"]

    def why(name: str) -> str:
        text = origin[name]
        return f" ({text.removeprefix('derived: ')})" if text.startswith("derived: ") else ""

    height, width = config.image_size
    start = f", resuming at step {first_step:,}" if first_step else ""
    levels = config.data.value_range
    values = f", values {levels[0]:g} to {levels[1]:g} from black to white{why('data.value_range')}" if levels else ""
    return [
        f"data       {data['source']}: {data['images']:,} images, "
        f"{config.data.channels} channels, {height}x{width} pixels{values}",
        f"encoder    {counts['context_encoder'] / 1e6:.1f} M parameters: width {model.width}, {model.depth} blocks, "
        f"{config.grid[0]}x{config.grid[1]} patches of {model.patch_size} pixels",
        f"predictor  {counts['predictor'] / 1e6:.1f} M parameters: width {model.predictor_width}, "
        f"{model.predictor_depth} blocks; masks: {config.masking.sampler}",
        f"training   {config.horizon.steps:,} steps of {config.optim.batch_size} images{start}{why('horizon.steps')}",
        f"machine    {config.train.device}, {config.train.precision}{why('train.precision')}, "
        f"{config.train.attention} attention{why('train.attention')}",
    ]


def measures_text(line: Mapping[str, Any]) -> str:
    """Summarise one logged line."""
    bad = f"  bad images {line['bad_images']:,}" if line.get("bad_images") else ""
    return (
        f"loss {line['loss']:.4f} ({line['relative_loss']:.2f} of baseline)  rank {line['effective_rank']:.1f}  "
        f"gap {line['cross_sample_gap']:.3f}  {line['images_per_second']:.0f} images/s  "
        f"wait {line['data_wait']:.0%}{bad}"
    )


def duration(seconds: float) -> str:
    """Format a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_table(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Print a header and rows: a ruled table on a terminal, aligned columns otherwise."""
    if console.is_terminal:
        table = Table(*rows[0])
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        text = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def new_console(*, to_stderr: bool) -> Console:
    """Return a console; with ``--json`` everything but the result goes to standard error."""
    # Without emoji=False, rich turns ":train:" in "fashion-mnist:train:" into a picture.
    return Console(file=sys.stderr if to_stderr else sys.stdout, emoji=False)
