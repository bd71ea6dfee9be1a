"""Collect the settings given to a command as layers, and choose a recipe if none is named."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hjepa import config as configuration
from hjepa.config import Layer
from hjepa.errors import UserError

DEFAULT_RECIPE = "ijepa-small"  # for a length in steps or epochs
RECIPES_BY_DEVICE = {  # device -> recipe below so many seconds and where no length is given, recipe from there on
    "cpu": ("hjepa-tiny", 3600, "hjepa-small"),
    "mps": ("hjepa-tiny", 3600, "hjepa-small"),
    "cuda": ("hjepa-small", 4 * 3600, "hjepa-base"),
}


def given_layers(
    recipe: str | None,
    config: str | os.PathLike[str] | None,
    budget: str | None,
    options: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
) -> list[Layer]:
    """Return the given settings as layers, in increasing order of precedence."""
    given = [Layer("call", settings)] if settings else []
    given += [configuration.read_options(list(options))] if options else []
    if budget is not None:
        _refuse_budget(budget, given)
        given.append(Layer("command line" if options or not settings else "call", {"train": {"length": budget}}))
    trains = [layer.values.get("train") or {} for layer in given]
    layers = [configuration.read_recipe(recipe)] if recipe else []
    if config is not None:
        layers += (from_file := configuration.read_file(Path(config)))
        named = from_file[-1].values.get("recipe")
        if recipe and named not in (None, recipe):
            raise UserError(f"--recipe {recipe} contradicts the recipe {named} of {config}: remove one of them")
    elif not recipe:
        asked = {name: v for train in trains for name, v in train.items()}  # the command line last
        layers += _chosen_recipe(asked.get("length"), str(asked.get("device", "auto")))
    return [*layers, *given]


def _refuse_budget(budget: str, given: Sequence[Layer]) -> None:
    """Raise UserError if a budget is not a time, or if the length of training is set elsewhere as well."""
    try:
        configuration.budget_seconds(str(budget))
    except ValueError as error:
        raise UserError(f"--budget {budget}: {error}") from None
    if any((layer.values.get("train") or {}).get("length") is not None for layer in given):
        raise UserError("--budget and --train.length both set how long to train: leave one of them out")


def _chosen_recipe(length: Any, wanted: str) -> list[Layer]:
    """Return the recipe for a time on this machine's device, and why; the default recipe for steps and epochs.

    Without any length it is the one for a short time, which brings its own: what was measured on photographs.
    """
    if length is None:
        seconds, asked = 0.0, ""
    else:
        try:
            seconds, asked = configuration.budget_seconds(str(length)), f"for {length} "
        except ValueError:  # not a time; what is not a length at all is refused where it is read
            return [configuration.read_recipe(DEFAULT_RECIPE)]
    from hjepa.setup.machine import choose_device  # imports torch, which hjepa check does without

    device = choose_device(wanted).type
    shorter, limit, longer = RECIPES_BY_DEVICE[device]
    name = longer if seconds >= limit else shorter
    return [configuration.read_recipe(name), Layer(f"recipe chosen {asked}on {device}", {"recipe": name})]
