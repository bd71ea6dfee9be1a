"""What the settings say to a person: the help page, and errors in one line."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hjepa.config.masking import SAMPLERS, samplers_with
from hjepa.config.schema import all_fields, field_names
from hjepa.config.section import is_auto

# Settings of earlier versions: what to write now.
RENAMED = {
    "data.corrupt": "data.max_bad, the fraction of the images that may be unreadable, such as {prefix}data.max_bad 1%",
    "train.steps": "train.length, such as {prefix}train.length '300 steps'",
    "train.epochs": "train.length, such as {prefix}train.length '300 epochs'",
    "train.budget": "train.length, such as {prefix}train.length 20min",
    "optim.loss": "loss.kind",
    "optim.variance_covariance": "loss.variance_covariance",
    "optim.level_weights": "loss.level_weights",
    "model.pixel_targets": "loss.pixel_targets",
}


def describe() -> list[tuple[str, str, str]]:
    """Return (dotted name, default, description) of all settings that a person can set, for the help page."""
    return [
        (name, "auto" if is_auto(field) else _shown(field.default), f"{field.description or ''}{_only_with(name)}")
        for name, field in all_fields()
        if not name.startswith("horizon.")
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else str(plain(value))


def _only_with(name: str) -> str:
    """Say which mask samplers have a setting that not all of them have, and how their defaults differ."""
    if not name.startswith("masking.") or name == "masking.sampler":
        return ""
    having = samplers_with(name)
    if len(having) < len(SAMPLERS):
        return f" Only with sampler {' or '.join(having)}."
    default, *_ = defaults = [SAMPLERS[one].model_fields[name.removeprefix("masking.")].default for one in having]
    others = [f"{one}: {plain(value)}" for one, value in zip(having, defaults, strict=True) if value != default]
    return f" Default for {', '.join(others)}." if others else ""


def unknown_name(name: str, origin: str) -> str:
    """Say that a setting does not exist, and which one was meant."""
    prefix = "--" if origin == "command line" else ""
    where = "" if prefix else f" in {origin}"
    if name in RENAMED:
        return f"{prefix}{name}{where} is now {prefix}{RENAMED[name].format(prefix=prefix)}"
    if name.startswith("horizon."):
        return f"{prefix}{name}{where} is written by a run and cannot be set: use {prefix}train.length"
    known = [
        *field_names(),
        "out",
        "config",
        "budget",
        "plan",
        "json",
        "resume",
        "overwrite",
        "extend-to",
        "init-from",
        "debug",
    ]
    meant = did_you_mean(name, known, prefix)
    return f"unknown setting {prefix}{name}{where}{meant or ': hjepa pretrain --help lists all settings'}"


def did_you_mean(name: str, known: list[str], prefix: str = "") -> str:
    """Return the end of a sentence that names the nearest known name; nothing if none is near."""
    field = name.rpartition(".")[2]
    close = [k for k in known if k.rpartition(".")[2] == field][:1]  # the right field in the wrong section
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {prefix}{close[0]}?" if close else ""


def plain(value: Any) -> Any:
    """Return a value as YAML writes it: a tuple is a list."""
    return list(value) if isinstance(value, tuple) else value


def example(name: str) -> Any:
    """Return a value that a setting takes."""
    default = dict(all_fields())[name].default
    if isinstance(default, str) and " " in default:
        return f"'{default}'"
    return 1 if default is None else ",".join(map(str, default)) if isinstance(default, tuple) else default


def one_line(error: ValidationError, origin: Mapping[str, str]) -> str:
    """Say the first problem with its dotted name, value and origin."""
    first = error.errors(include_url=False)[0]
    # The tag of the masks' section stands between its name and the setting's.
    location = [str(part) for number, part in enumerate(first["loc"]) if number != 1 or part not in SAMPLERS]
    if first["type"] == "unknown_sampler":
        location, first["input"] = ["masking", "sampler"], first["input"].get("sampler")
    if first["type"] == "extra_forbidden" and location[:1] == ["masking"]:
        having = " or ".join(samplers_with(location[1]))
        return (
            f"{'.'.join(location)} is a setting of masking.sampler {having} only: leave it out, or choose that sampler"
        )
    name = next((n for n in (".".join(location[:i]) for i in range(len(location), 0, -1)) if n in origin), "")
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        prefix = f"{'.'.join(location)}." if location else ""
        return f"{prefix}{message}"
    where = origin[name]
    shown = f" ({where})" if where not in ("default", "command line") else ""
    return f"{name} = {plain(first['input'])!r}{shown}: {message[0].lower()}{message[1:]}"
