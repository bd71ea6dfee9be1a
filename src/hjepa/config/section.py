"""What a group of settings is: strict, frozen, with ``auto`` for what is filled in later."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

AUTO: dict[str, Any] = {"auto": True}  # marks a setting whose value ``auto`` is None in Python


def _on_or_off(value: Any) -> Any:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


ON_OFF = BeforeValidator(_on_or_off)  # YAML reads a plain on or off as a truth value
OnOff = Annotated[Literal["on", "off"], ON_OFF]
AutoOnOff = Annotated[Literal["auto", "on", "off"], ON_OFF]


class Section(BaseModel):
    """A group of settings: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _auto_is_none(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: None if value == "auto" and name in cls.model_fields and is_auto(cls.model_fields[name]) else value
            for name, value in values.items()
        }


def is_auto(field: Any) -> bool:
    """Return whether a setting's None is written as ``auto``."""
    return field.json_schema_extra is AUTO


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting's dotted name and pydantic's description of it; of a union, each name once."""
    for name, field in model.model_fields.items():
        options = get_args(field.annotation) or (field.annotation,)
        # Members of a discriminated union are annotated with their tag.
        types = [get_args(option)[0] if get_args(option) else option for option in options]
        sections = [one for one in types if isinstance(one, type) and issubclass(one, Section)]
        if not sections:
            yield f"{prefix}{name}", field
        met: dict[str, Any] = {}
        for section in sections:
            for inner, description in fields_of(section, f"{prefix}{name}."):
                met.setdefault(inner, description)
        yield from met.items()
