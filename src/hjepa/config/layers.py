"""Layers of settings and where each value came from: default < recipe < file < command line.

What is still ``auto`` is filled from the data and the machine (``setup/autoconfig.py``). Unknown keys are errors.
"""

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from hjepa.config.schema import Config, HorizonConfig, auto_names, field_names
from hjepa.config.texts import did_you_mean, example, one_line, plain, unknown_name
from hjepa.errors import UserError


class Layer(NamedTuple):
    """Values from one place, as nested mappings."""

    origin: str  # "recipe demo", "file my.yaml", "command line"
    values: Mapping[str, Any]


class Resolved(NamedTuple):
    """A configuration and where each value came from (dotted name -> origin)."""

    config: Config
    origin: dict[str, str]


def resolve(layers: list[Layer]) -> Resolved:
    """Merge layers, later ones winning, and check the result; raises UserError in one line."""
    merged: dict[str, Any] = {}
    origin = dict.fromkeys(field_names(), "default")
    for layer in layers:
        for name, value in _leaves(layer.values):
            if name not in origin:
                raise UserError(unknown_name(name, layer.origin))
            for other in _taken_back_by(name, value, merged):
                if origin[other] not in ("default", layer.origin):
                    origin[other] = "default"
                    section, key = other.split(".")
                    del merged[section][key]
            if name == "model.depth" and origin["model.levels"] not in ("default", layer.origin):
                _let_levels_follow(value, merged, origin)
            origin[name] = layer.origin
            _put(merged, name, value)
    try:
        resolved = Resolved(Config.model_validate(merged), origin)
    except ValidationError as error:
        raise UserError(one_line(error, origin)) from None
    return _without_stale_horizon(resolved)


def _without_stale_horizon(resolved: Resolved) -> Resolved:
    """Drop the steps of a run whose configuration is used with another length than it had.

    With the same length they stay, so that the run is repeated as it was, its corrections included.
    """
    horizon, length = resolved.config.horizon, resolved.config.train.length
    if horizon.length is None and horizon.steps is not None:
        raise UserError(unknown_name("horizon.steps", resolved.origin["horizon.steps"]))
    if horizon.length in (None, length):
        return resolved
    origin = {name: "default" if name.startswith("horizon.") else place for name, place in resolved.origin.items()}
    return Resolved(resolved.config.model_copy(update={"horizon": HorizonConfig()}), origin)


def _taken_back_by(name: str, value: Any, merged: Mapping[str, Any]) -> list[str]:
    """Return the settings that mean nothing any more once a later layer gives this one a value."""
    if name == "masking.sampler" and value != merged.get("masking", {}).get("sampler", "multiblock"):
        # Each sampler has settings of its own; how many masks an image has is none of theirs.
        return [f"masking.{key}" for key in merged.get("masking", {}) if key not in ("sampler", "contexts")]
    if name != "model.levels":
        return []
    # A recipe's weights are one for each of its levels, and what its pixel targets are matters to a level of pixels.
    each = value if isinstance(value, list | tuple) else [value]
    has_pixels = any(0 in (one if isinstance(one, list | tuple) else [one])[:1] for one in each)
    return [
        "loss.level_weights",
        *([] if has_pixels else ["loss.pixel_targets"]),
        *([] if len(each) > 1 else ["loss.level_warmup"]),  # which is for deeper levels
    ]


def _let_levels_follow(depth: Any, merged: dict[str, Any], origin: dict[str, str]) -> None:
    """Give the levels of a recipe the same places in an encoder of another depth: 0, 2, 4 of 4 are 0, 6, 12 of 12."""
    model = merged["model"]
    levels, before = model.get("levels"), model.get("depth")
    if not levels or not isinstance(depth, int) or not isinstance(before, int) or depth == before:
        return
    pairs = [tuple(level) if isinstance(level, list | tuple) else (level, 1) for level in levels]
    followed = dict.fromkeys((round(at * depth / before), *stride) for at, *stride in pairs)
    model["levels"] = [list(level) for level in followed]
    origin["model.levels"] += ", in proportion to model.depth"
    if len(followed) < len(levels) and origin["loss.level_weights"] != "default":  # in a shallow encoder, two may meet
        merged["loss"].pop("level_weights", None)
        origin["loss.level_weights"] = "default"


def derive(resolved: Resolved, values: Mapping[str, tuple[Any, str]]) -> Resolved:
    """Fill values that are auto: dotted name -> (value, reason)."""
    merged = resolved.config.model_dump()
    origin = dict(resolved.origin)
    for name, (value, reason) in values.items():
        _put(merged, name, value)
        origin[name] = f"derived: {reason}"
    try:
        return Resolved(Config.model_validate(merged), origin)
    except ValidationError as error:
        raise UserError(one_line(error, origin)) from None


def read_recipe(name: str) -> Layer:
    """Read a recipe that ships with hjepa; values for some device only are left out (``on_device``)."""
    return Layer(f"recipe {name}", {"recipe": name, **_recipe(name)[0]})


def on_device(resolved: Resolved, device: str) -> Resolved:
    """Return a configuration with what its recipe says about a device, where nothing else says otherwise."""
    if resolved.config.recipe is None:
        return resolved
    recipe = resolved.config.recipe
    values, reason = dict(_recipe(recipe)[1].get(device, {})), f"recipe {recipe} on {device}"
    if because := values.pop("because", None):
        reason = f"{reason}: {because}"
    changes = {name: (value, reason) for name, value in _leaves(values) if resolved.origin[name] == f"recipe {recipe}"}
    return derive(resolved, changes)


def _recipe(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the values of a recipe, and those for each device that differ."""
    names = recipe_names()
    if name not in names:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, names)}: the recipes are {', '.join(names)}")
    text = resources.files("hjepa.recipes").joinpath(f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    return values, values.pop("devices", {})


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    files = resources.files("hjepa.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_file(path: Path) -> list[Layer]:
    """Read a YAML file of settings, such as the config.yaml of another run."""
    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"--config {path}{where}: not valid YAML") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: holds no settings, expected lines such as 'optim: {{lr: 0.001}}'")
    layer = Layer(f"file {path}", values)
    # A file that names a recipe means it: the recipe's values come first, the file's own win.
    return [read_recipe(str(values["recipe"])), layer] if values.get("recipe") is not None else [layer]


def read_options(tokens: list[str]) -> Layer:
    """Read ``--section.field value`` and ``--section.field=value`` from the command line."""
    values: dict[str, Any] = {}
    rest = iter(tokens)
    for token in rest:
        if not token.startswith("--"):
            raise UserError(f"unexpected argument {token!r}: options look like --optim.lr 0.001")
        name, equals, text = token[2:].partition("=")
        name = name.replace("-", "_")
        if name not in field_names() or name.startswith("horizon."):
            raise UserError(unknown_name(name, "command line"))
        if not equals:
            text = next(rest, "")
            if not text or text.startswith("--"):
                raise UserError(f"--{name} needs a value, such as --{name} {example(name)}")
        _put(values, name, _parse(text))
    return Layer("command line", values)


def dump(resolved: Resolved) -> str:
    """Return config.yaml: every value, with where it came from as a comment."""
    lines: list[str] = []
    section = ""
    for name, value in _leaves(resolved.config.model_dump()):
        head, _, field = name.rpartition(".")
        if head != section:
            lines.append(f"{head}:")
            section = head
        indent = "  " if head else ""
        shown = "auto" if value is None and name in auto_names() else plain(value)
        text = yaml.safe_dump(shown, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        lines.append(f"{indent}{field}: {text}  # {resolved.origin[name]}")
    return "\n".join(lines) + "\n"


def load(text: str) -> Resolved:
    """Read what ``dump`` wrote; the origins are those in its comments, of settings it did not know the default."""
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise UserError("config.yaml holds no settings: restore it, or start again with --overwrite")
    if isinstance(values.get("data"), dict):
        values["data"].pop("corrupt", None)  # of earlier versions; it did not change what a run computes
    resolved = resolve([Layer("config.yaml", values)])
    origin = dict.fromkeys(field_names(), "default")
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        setting, _, comment = line.partition("  # ")
        field, _, value = setting.partition(":")
        if not value.strip():
            section = f"{field}."
        else:
            origin[f"{section}{field.strip()}" if field.startswith(" ") else field] = comment
    return Resolved(resolved.config, origin)


def by_name(config: Config) -> dict[str, Any]:
    """Return every value by its dotted name, such as ``ema.momentum``."""
    return dict(_leaves(config.model_dump()))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if "." in str(name):
            yield dotted, value
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, field = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[field] = value


def _parse(text: str) -> Any:
    if "," in text and not text.startswith("["):
        return [_parse(part) for part in text.split(",")]
    try:
        return None if text.lower() == "none" else yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{text!r} is not a value: write a number, a word, or numbers with commas between") from None
