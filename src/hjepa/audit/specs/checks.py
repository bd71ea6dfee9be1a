"""Checks of the values in a specification."""

import difflib
from collections.abc import Iterable


def refuse(key: str, value: object, remedy: str) -> None:
    """Raise ValueError in one line that names key, value and fix."""
    raise ValueError(f"{key} = {value!r}: {remedy}")


def check_momentum(key: str, value: object) -> None:
    """Refuse a value that is not a momentum."""
    if not (isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0):
        refuse(key, value, "momentum is the teacher's coefficient; give a number in [0, 1], such as 0.996")


def is_number(value: object) -> bool:
    """Whether the value is a number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether the value is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def closest_word(word: str, known: Iterable[str]) -> str:
    """Return the word that is most like the one given."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]
