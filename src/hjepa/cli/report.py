"""``hjepa report`` on the command line."""

from pathlib import Path

from hjepa.cli.root import app


@app.command
def report(run: Path) -> None:
    """Rebuild the HTML report of a run.

    Parameters
    ----------
    run
        Folder of a run.
    """
    from hjepa.report import write_report

    print(write_report(run))
