"""How far embedding is: a bar on a terminal, a line every ten seconds otherwise; rank 0 only."""

from typing import TYPE_CHECKING

from hjepa.processes import is_main_process
from hjepa.terminal import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from hjepa.deploy.embed.loop import Progress

SECONDS_BETWEEN_LINES = 10.0


class EmbedProgress:
    """Called after each batch."""

    def __init__(self, console: "Console") -> None:
        self.console = console
        self.bar: Bar | None = None
        self.last_line = 0.0

    def __call__(self, progress: "Progress") -> None:
        """Show throughput and the time that is left."""
        if not is_main_process():
            return
        text = f"{progress.images_per_second:,.1f} images/s  ETA {duration(progress.seconds_left)}"
        if self.console.is_terminal:
            self._move_bar(progress, text)
        elif progress.seconds - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = progress.seconds
            line = f"embedded {progress.done:,}/{progress.total:,}  {text}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _move_bar(self, progress: "Progress", text: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        if self.bar is None:
            columns = (MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
            self.bar = Progress(TextColumn("embedded"), *columns, console=self.console)
            self.task = self.bar.add_task("", total=progress.total)
            self.bar.start()
        self.bar.update(self.task, completed=progress.done, description=text)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
