"""Count the packages a core install brings beside what torch and torchvision bring themselves.

Usage:  python benchmarks/count_packages.py      (walks the metadata of what is installed; needs no network)
"""

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement


def closure(roots: list[str]) -> set[str]:
    """Return every installed package that the roots need, themselves included."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # asked for only on other systems
        found.add(name)
        parsed = [Requirement(text) for text in needs]
        waiting += [r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


if __name__ == "__main__":
    beside = sorted(closure(["hjepa"]) - closure(["torch", "torchvision"]) - {"hjepa"})
    print(len(beside), "packages beside those of torch and torchvision:", ", ".join(beside))
