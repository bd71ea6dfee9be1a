"""Strict, typed configuration: every value is checked once and remembers where it came from."""

from hjepa.config.layers import (
    Layer,
    Resolved,
    by_name,
    derive,
    dump,
    load,
    on_device,
    read_file,
    read_options,
    read_recipe,
    recipe_names,
    resolve,
)
from hjepa.config.length import Length, budget_seconds, parse_length
from hjepa.config.masking import MultiblockMasking, RandomMasking
from hjepa.config.schema import Config, EMAConfig, OptimConfig
from hjepa.config.section import Section
from hjepa.config.texts import describe, unknown_name

__all__ = [
    "Config",
    "EMAConfig",
    "Layer",
    "Length",
    "MultiblockMasking",
    "OptimConfig",
    "RandomMasking",
    "Resolved",
    "Section",
    "budget_seconds",
    "by_name",
    "derive",
    "describe",
    "dump",
    "load",
    "on_device",
    "parse_length",
    "read_file",
    "read_options",
    "read_recipe",
    "recipe_names",
    "resolve",
    "unknown_name",
]
