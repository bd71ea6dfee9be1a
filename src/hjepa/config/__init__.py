"""Strict, typed configuration: every value is checked once and remembers where it came from."""

from hjepa.config.layers import (
    Layer,
    Resolved,
    by_name,
    derive,
    dump,
    load,
    read_file,
    read_options,
    read_recipe,
    recipe_names,
    refuse_two_lengths,
    resolve,
)
from hjepa.config.schema import LENGTHS, Config, EMAConfig, OptimConfig, Section, budget_seconds
from hjepa.config.texts import describe, unknown_name

__all__ = [
    "LENGTHS",
    "Config",
    "EMAConfig",
    "Layer",
    "OptimConfig",
    "Resolved",
    "Section",
    "budget_seconds",
    "by_name",
    "derive",
    "describe",
    "dump",
    "load",
    "read_file",
    "read_options",
    "read_recipe",
    "recipe_names",
    "refuse_two_lengths",
    "resolve",
    "unknown_name",
]
