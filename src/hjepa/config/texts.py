"""What the settings say to a person: the help page, and errors in one line."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hjepa.config.schema import all_fields, field_names


def describe() -> list[tuple[str, str, str]]:
    """Return (dotted name, default, description) of all settings, for the help page."""
    return [(name, str(plain(field.default)), field.description or "") for name, field in all_fields()]


def unknown_name(name: str, origin: str) -> str:
    """Say that a setting does not exist, and which one was meant."""
    where = "" if origin == "command line" else f" in {origin}"
    shown = f"--{name}" if origin == "command line" else name
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
    meant = did_you_mean(name, known, "--" if origin == "command line" else "")
    return f"unknown setting {shown}{where}{meant or ': hjepa pretrain --help lists all settings'}"


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
    if name == "train.budget":
        return "20min"
    default = dict(all_fields())[name].default
    return 1 if default is None else ",".join(map(str, default)) if isinstance(default, tuple) else default


def one_line(error: ValidationError, origin: Mapping[str, str]) -> str:
    """Say the first problem with its dotted name, value and origin."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    name = next((n for n in (".".join(location[:i]) for i in range(len(location), 0, -1)) if n in origin), "")
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        prefix = f"{'.'.join(location)}." if location else ""
        return f"{prefix}{message}"
    where = origin[name]
    shown = f" ({where})" if where not in ("default", "command line") else ""
    return f"{name} = {plain(first['input'])!r}{shown}: {message[0].lower()}{message[1:]}"
