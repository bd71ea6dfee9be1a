"""An experiment of the laboratory: what a file of experiments/ says, and what its runs share."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hjepa.config import read_recipe


@dataclass(frozen=True)
class Experiment:
    """A file of benchmarks/quality/experiments; README.md there explains the fields."""

    name: str
    question: str
    data: str
    evaluate: dict[str, Any] | list[dict[str, Any]]  # one evaluation, or several
    equal: dict[str, Any]
    threads: int
    seeds: list[int]
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    curve: dict[str, Any] = field(default_factory=dict)  # an evaluation, and at how many points of a run it is made
    conclusion: str = ""

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """Read an experiment; a field it does not know is an error of dataclass."""
        return cls(name=path.stem, **yaml.safe_load(path.read_text()))

    def protocol(self, processor: str) -> dict[str, Any]:
        """Return what runs must share to be compared; ``processor`` is what they are computed on."""
        recipe = self.base.get("recipe")
        curve = {"curve": self.curve} if self.curve else {}
        return {
            "recipe": recipe and read_recipe(recipe).values,
            "data": self.data,
            "evaluate": self.evaluate,
            **curve,
            "equal": self.equal,
            "threads": self.threads,
            "processor": processor,
        }

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations of each run."""
        return self.evaluate if isinstance(self.evaluate, list) else [self.evaluate]

    @property
    def by_time(self) -> bool:
        """Return whether the number of steps follows from the time of a step."""
        return "minutes" in self.equal or "of" in self.equal

    def settings(self, variant: str) -> dict[str, Any]:
        """Return the dotted settings of a variant, its recipe included."""
        return {**self.base, **self.variants[variant]}

    def steps_at_equal_time(self, variant: str, seconds: dict[str, float]) -> int:
        """Return a variant's number of steps, from the measured seconds per step of all variants."""
        if "minutes" in self.equal:
            return int(60 * self.equal["minutes"] / seconds[variant])
        return round(self.equal["steps"] * seconds[self.equal["of"]] / seconds[variant])

    def curve_every(self, steps: int) -> int:
        """Return after how many steps each point of the curve is due; the end of the run is the last one."""
        return -(-steps // int(self.curve["points"]))

    def levels(self, variant: str) -> list[str]:
        """Return the levels a variant is evaluated on: the last block; with ``levels: each`` also its levels."""
        settings, recipe = self.settings(variant), self.base.get("recipe")
        of_recipe = read_recipe(recipe).values.get("model", {}).get("levels") if recipe else None
        own = settings.get("model.levels", of_recipe) or []
        own = own if isinstance(own, list) else [own]
        several = self.evaluations[0].get("levels") == "each" and len(own) > 1
        return ["last", *map(str, range(len(own))), "all"] if several else ["last"]


def as_options(settings: dict[str, Any]) -> list[str]:
    """Return dotted settings as the command line takes them."""
    options = []
    for name, value in settings.items():
        shown = json.dumps(value) if isinstance(value, list) else "none" if value is None else str(value)
        options += [f"--{name}", shown]
    return options


def as_json(value: Any) -> Any:
    """Return a value as it reads after it was written."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, None if it does not exist."""
    return json.loads(path.read_text()) if path.is_file() else None
