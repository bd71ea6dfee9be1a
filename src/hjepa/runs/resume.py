"""Resuming a run: its configuration, the settings that may change, and the checkpoint to resume from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hjepa import config as configuration
from hjepa.config import Config, Layer, Resolved
from hjepa.data.sources import ImageSource
from hjepa.errors import UserError
from hjepa.runs import checkpoint as checkpoints
from hjepa.runs.bad_images import restore_places
from hjepa.runs.folder import RunFolder
from hjepa.setup.build import momentum_of, schedules_of

# Settings that may change on resume, because they do not change what the run computes.
FREE_TO_CHANGE = {
    "data.cache",
    "data.max_bad",
    "optim.accumulate",
    "train.length",
    "horizon.length",
    "horizon.steps",
    "horizon.corrections",
    "train.capture",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "data.workers",
}


@dataclass(frozen=True)
class Resumed:
    """The state of a run before it is resumed."""

    record: dict[str, Any]
    resolved: Resolved
    checkpoint: checkpoints.Checkpoint | None  # None: stopped before the first one
    notices: list[str]


def read_run(folder: RunFolder, layers: list[Layer], recipe: str | None, extend_to: int | None) -> Resumed:
    """Read a run to resume; raises UserError if the given settings, or its checkpoint, compute something else."""
    record = folder.read_record()
    before = _read_config(folder)
    resolved = _with_given(before, layers, recipe)
    if extend_to is not None:
        resolved = _extended(resolved, extend_to)
    checkpoint = _newest_checkpoint(folder)
    notices = []
    if checkpoint is None:
        notices.append("the run has no checkpoint yet, so it starts again from its first step")
    else:
        refuse_other_configuration(resolved.config, checkpoint.state["config"])
    if extend_to is not None:
        step = 0 if checkpoint is None else checkpoint.state["step"]
        notices += [f"--extend-to: {text}" for text in horizon_change(before.config, resolved.config, step)]
    return Resumed(record, resolved, checkpoint, notices)


def changed_settings(before: Mapping[str, Any], now: Config) -> dict[str, tuple[Any, Any]]:
    """Return the differences from a saved configuration: dotted name -> (saved value, current value).

    A setting that is missing from the saved configuration was added later; its default is what was computed before, and
    an auto setting had no value that could differ.
    """
    defaults, changed = Config().model_dump(mode="json"), {}
    for section, values in now.model_dump(mode="json").items():
        for name, value in values.items() if isinstance(values, dict) else ():
            known = name in before.get(section, {})
            was = before[section][name] if known else defaults[section].get(name)
            if was != value and (known or was not in (None, "auto")):
                changed[f"{section}.{name}"] = (was, value)
    return changed


def refuse_other_configuration(config: Config, saved: Mapping[str, Any]) -> None:
    """Raise UserError if a checkpoint's configuration computes something else than ``config``."""
    for name, (other, value) in changed_settings(saved, config).items():
        if name not in FREE_TO_CHANGE:
            raise UserError(
                f"the checkpoint has {name} = {other}, but this run has {value}: resume with the original settings, "
                "or start a new run from its weights with --init-from"
            )


def refuse_other_images(source: ImageSource, record: Mapping[str, Any]) -> None:
    """Raise UserError if these are not the images the run was trained on.

    Files that the run could not read may have been removed or replaced since.
    """
    restore_places(source, record)
    was, is_now = record["data"]["fingerprint"], source.fingerprint()
    if is_now != was and not is_now.startswith(f"{was}-"):  # earlier versions did not look at the content
        raise UserError(
            f"{source.name} is not the data this run was trained on ({record['data']['source']}, {was}; now {is_now}): "
            "resume with the same images, or start a new run with --init-from"
        )


def horizon_change(before: Config, after: Config, step: int) -> list[str]:
    """Return one line per schedule: its value at the next step with the old and the new number of steps."""
    rows = [
        (name, getattr(schedules_of(before), name)(step), getattr(schedules_of(after), name)(step))
        for name in ("lr", "weight_decay", "variance_covariance")
        if name != "variance_covariance" or before.loss.variance_covariance
    ]
    rows.append(("momentum", momentum_of(before)(step), momentum_of(after)(step)))
    if before.loss.level_warmup:
        rows += [
            (f"weight of level {number}", old, new)
            for number, (old, new) in enumerate(
                zip(*(schedules_of(config).level_weights(step) for config in (before, after)), strict=True)
            )
        ]
    horizon = f"at step {step}, horizon {before.horizon.steps} -> {after.horizon.steps}"
    return [f"{name} {old:.6g} -> {new:.6g} {horizon}" for name, old, new in rows]


def _read_config(folder: RunFolder) -> Resolved:
    try:
        return configuration.load(folder.config.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder.path} has no config.yaml: nothing to resume, start a new run") from None
    except yaml.YAMLError:
        raise UserError(f"{folder.config} is damaged: restore it, or start over with --overwrite") from None


def _with_given(saved: Resolved, layers: list[Layer], recipe: str | None) -> Resolved:
    """Return the run's configuration; raises UserError if given settings differ from it."""
    was = saved.config.recipe
    if recipe and recipe != was:
        raise UserError(f"--recipe {recipe} differs from the run's recipe {was}: omit it to resume, or start a new run")
    given = [layer for layer in layers if not layer.origin.startswith("recipe ")]
    for layer in given:
        if (now := layer.values.get("recipe")) not in (None, was):
            raise UserError(f"{layer.origin}: recipe {now} differs from the run's recipe {was}; start a new run")
    # On top of the run's own values: the given settings may be invalid with the defaults.
    before = Layer("the run", configuration.by_name(saved.config))
    wanted = configuration.resolve([before, *given])
    changes: dict[str, tuple[Any, str]] = {}
    for name, (own, value) in changed_settings(saved.config.model_dump(mode="json"), wanted.config).items():
        if wanted.origin[name] in ("default", before.origin):
            continue  # reset by what was given
        if value in (None, "auto") and saved.origin[name].startswith("derived"):
            continue  # auto, as it was when the run began
        length = name == "train.length"
        if length or name not in FREE_TO_CHANGE:
            remedy = "use --extend-to" if length else "start a new run from its weights with --init-from"
            raise UserError(f"{name} = {value} differs from the run's {own}: omit it to resume, or {remedy}")
        changes[name] = (value, "changed at resume")
    return configuration.derive(saved, changes)


def _extended(resolved: Resolved, extend_to: int) -> Resolved:
    steps = resolved.config.horizon.steps or 0
    if extend_to < steps:
        raise UserError(f"--extend-to {extend_to}: the run already has {steps} steps, use a larger number")
    return configuration.derive(resolved, {"horizon.steps": (extend_to, f"--extend-to, was {steps}")})


def _newest_checkpoint(folder: RunFolder) -> checkpoints.Checkpoint | None:
    """Return the newest checkpoint; None if the run was stopped before its first one, so that nothing is lost."""
    if any(folder.checkpoints.glob("[!.]*")) or folder.encoder.exists():
        return checkpoints.load(folder.checkpoints / "last")
    return None


def refuse_other_depth(before: Config, now: Config) -> None:
    """Raise UserError if images are read with another number of bits than when a run began.

    Packages that read all bits of 16-bit colours may have been installed or removed since.
    """
    was, is_now = before.data.value_range, now.data.value_range
    if was == is_now:
        return
    bits, packages = ("8 bits", "installed") if was is None else ("all their bits", "removed")
    raise UserError(
        f"the run read these images with {bits}, and they are read otherwise now (hjepa[tiff] was {packages}): undo "
        "that to resume, or start a new run"
    )
