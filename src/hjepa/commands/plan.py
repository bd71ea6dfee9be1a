"""``hjepa pretrain --plan``: a dry run that estimates memory and time."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hjepa.commands.given import given_layers
from hjepa.config import Resolved, resolve
from hjepa.data.sources import open_source
from hjepa.setup.build import build
from hjepa.setup.memory import out_of_memory_in_words
from hjepa.setup.plan import Plan, plan_of


def plan(
    data: Any,
    /,
    *,
    recipe: str | None = None,
    config: str | os.PathLike[str] | None = None,
    budget: str | None = None,
    options: Sequence[str] = (),
    **settings: Mapping[str, Any],
) -> tuple[Resolved, Plan]:
    """Return the resolved settings of a run, with measured memory and time. Writes nothing."""
    resolved = resolve(given_layers(recipe, config, budget, options, settings))
    source = open_source(data, resolved.config.data.channels, resolved.config.data.pages)
    with out_of_memory_in_words(resolved.config):
        parts = build(resolved, source)
        return parts.resolved, plan_of(parts)
