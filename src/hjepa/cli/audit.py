"""``hjepa audit`` in the list of commands."""

from typing import Annotated

from cyclopts import Parameter

from hjepa.cli.root import app


@app.command
def audit(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run a training script and check whether its EMA teacher is updated correctly.

    Usage: hjepa audit [OPTIONS] SCRIPT [ARGUMENTS]. Run hjepa audit --help for the options.
    """
    raise AssertionError("main() hands these words to hjepa.audit.command, which knows where the script begins")
