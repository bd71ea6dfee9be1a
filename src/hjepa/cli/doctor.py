"""``hjepa doctor`` on the command line."""

import json as jsonlib

from hjepa.cli.root import app


@app.command
def doctor(*, json: bool = False) -> None:
    """Report what this machine offers: devices, precision, threads, memory, package versions and datasets.

    Parameters
    ----------
    json
        Print the report as JSON.
    """
    from hjepa.commands import doctor as machine

    facts = machine.doctor()
    if json:
        print(jsonlib.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:<24} {value}")
