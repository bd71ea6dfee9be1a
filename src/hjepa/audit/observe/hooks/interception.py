"""Functions of torch whose calls pass by us for a while.

Each is replaced once for all audits that watch it, and put back when the last of them leaves: audits that
restored what they had found themselves would put back each other's replacements.
"""

import functools
from collections.abc import Callable
from typing import Any

Watcher = Callable[..., Any]
"""Called as ``watcher(go_on, *args, **kwargs)`` in place of the function; must call ``go_on(*args, **kwargs)``."""


class _Interception:
    """One replaced function and who watches it."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.watchers: list[Watcher] = []
        original = getattr(owner, name)
        watchers = self.watchers

        @functools.wraps(original)
        def passing(*args: Any, **kwargs: Any) -> Any:
            go_on = original
            for watcher in tuple(watchers):
                go_on = functools.partial(watcher, go_on)
            return go_on(*args, **kwargs)

        self.original, self.passing = original, passing
        setattr(owner, name, passing)

    def leave(self, watcher: Watcher) -> None:
        self.watchers.remove(watcher)
        if self.watchers:
            return
        del _interceptions[_place(self.owner, self.name)]
        # Where the program has laid a replacement of its own over ours, ours stays below and lets calls through.
        if getattr(self.owner, self.name) is self.passing:
            setattr(self.owner, self.name, self.original)


_interceptions: dict[tuple[int, str], _Interception] = {}


def _place(owner: Any, name: str) -> tuple[int, str]:
    return id(owner), name


def intercept(owner: Any, name: str, watcher: Watcher) -> Callable[[], None]:
    """Let calls of ``owner.name`` pass by ``watcher``; return what ends it."""
    place = _place(owner, name)
    interception = _interceptions.get(place)
    if interception is None:
        interception = _interceptions[place] = _Interception(owner, name)
    interception.watchers.append(watcher)
    return functools.partial(interception.leave, watcher)
