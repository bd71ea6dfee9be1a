"""A custom specification, read from a TOML file."""

import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from hjepa.audit.specs.checks import closest_word, refuse
from hjepa.audit.specs.published import PROFILES, named
from hjepa.audit.specs.spec import ORDERS, Spec


def from_toml(path: str | PathLike[str]) -> Spec:
    """Return the specification in a TOML file: a ``[spec]`` table, or keys at the top level.

    ``base`` names a profile (default: ``custom``). The other keys are arguments of that profile or fields of
    ``Spec``; ``target_normalisation = "none"`` removes what the base prescribes. Raises ValueError in one line
    that names file, key, value and fix, or OSError if the file cannot be read.
    """
    try:
        return _from_table(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{Path(path)}: {error}") from None


def _from_table(document: Mapping[str, Any]) -> Spec:
    table = document.get("spec", document)
    if not isinstance(table, dict):
        refuse("spec", table, "write a [spec] table, or its keys at the top level")
    if table is not document:
        for key, value in document.items():
            if not isinstance(value, dict):
                refuse(key, value, "move it below the [spec] line")
    given = {key: value for key, value in table.items() if key != "base"}
    base = table.get("base", "custom")
    if not isinstance(base, str):
        refuse("base", base, f"name a profile: {', '.join(PROFILES)}")
    spec_keys = [field.name for field in fields(Spec) if field.name != "variants"]
    taken = list(inspect.signature(PROFILES[base]).parameters) if base in PROFILES else []
    known = dict.fromkeys(["base", *taken, *spec_keys])
    for key, value in given.items():
        if key not in known:
            refuse(
                key, value, f"unknown key, did you mean {closest_word(key, known)!r}? Known keys: {', '.join(known)}"
            )
        if key in ("name", "source", "notes") and not isinstance(value, str):
            refuse(key, value, "write it as a quoted string")
        if key == "orders":
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list) or not all(isinstance(order, str) for order in names):
                refuse(key, value, f"name one or more of {', '.join(ORDERS)}")
            given[key] = frozenset(names)
        if key == "target_normalisation" and value == "none":
            given[key] = None
    if base == "custom":
        for field, argument in (("start", "momentum"), ("end", "final_momentum")):
            if field in given:
                given.setdefault(argument, given.pop(field))
    spec = named(base, **{key: value for key, value in given.items() if key in taken})
    changes = {key: value for key, value in given.items() if key not in taken}
    if changes:
        kept = () if changes.keys() & {"kind", "start", "end"} else spec.variants
        spec = replace(spec, variants=tuple(replace(variant, **changes) for variant in kept), **changes)
    return spec
