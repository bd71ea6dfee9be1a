"""What one row of a table is: an audited program, and how it is compared."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One audited program: ``driven`` says what it does, ``source`` where that way is documented."""

    package: str
    driver: str
    specification: tuple[str, ...]
    driven: str
    source: str
    arguments: tuple[str, ...] = ()
    environment: str = "shared"
    table: str = "first"
    steps: int = 20
    note: str = ""
    unconfirmed: tuple[str, ...] = ()  # rules whose report an inspection by hand did not confirm; the note says why

    @property
    def title(self) -> str:
        return " ".join((self.driver, *self.arguments))

    @property
    def compared(self) -> str:
        words = re.sub(r"--(?:spec )?", "", " ".join(self.specification)).replace("total-steps", "over")
        return words or "no specification"


def profile(name: str, steps: int = 24) -> tuple[str, ...]:
    return "--spec", name, "--total-steps", str(steps)


def cosine(start: float, steps: int = 24) -> tuple[str, ...]:
    given = {"momentum": start, "final-momentum": 1, "kind": "cosine", "total-steps": steps}
    return tuple(word for name, value in given.items() for word in (f"--{name}", str(value)))
