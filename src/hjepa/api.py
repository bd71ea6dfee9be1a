"""Everything the commands do, as one Python call each."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from accelerate import Accelerator

from hjepa import __version__
from hjepa import config as configuration
from hjepa.config import Layer, Resolved
from hjepa.conformance import audited
from hjepa.data.augment import Fit
from hjepa.data.loader import FittedImages, Share
from hjepa.data.sources import (
    ImageSource,
    cifar10_is_here,
    fashion_mnist_is_here,
    fingerprint_with_labels,
    open_source,
    renumber_classes,
)
from hjepa.errors import UserError
from hjepa.masking import Coverage, coverage, svg
from hjepa.models.frozen import FrozenEncoder, load_frozen, random_twin
from hjepa.report import write_report
from hjepa.training import checkpoint as checkpoints
from hjepa.training.health import LOSS_NOTE, Verdict
from hjepa.training.machine import (
    autocast_dtype,
    available_memory_gb,
    choose_device,
    choose_precision,
    hardware,
    matmul_speed,
)
from hjepa.training.plan import Plan, keep_budget, measure_plan, refuse_too_large
from hjepa.training.run_folder import RunFolder, write_json
from hjepa.training.session import (
    FREE_TO_CHANGE,
    Batches,
    Session,
    agree,
    build_model,
    build_trainer,
    complete,
    mask_sampler,
    momentum_of,
    new_record,
    schedules_of,
    start_accelerator,
    write_config,
)
from hjepa.training.starting_weights import init_from as load_starting_weights

if TYPE_CHECKING:
    from hjepa.evaluation import Result

DEFAULT_RECIPE = "hjepa-small"
RECIPES_BY_BUDGET = {  # device -> recipe below so many seconds, recipe from there on
    "cpu": ("hjepa-tiny", 3600, "hjepa-small"),
    "mps": ("hjepa-tiny", 3600, "hjepa-small"),
    "cuda": ("hjepa-small", 4 * 3600, "hjepa-base"),
}


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """Return run.json: status, versions, hardware, data, speed, verdict."""
        return RunFolder(self.path).read_record()

    @property
    def verdict(self) -> Verdict | None:
        """Return the last verdict, or None before the first logged line."""
        verdict = self.record["verdict"]
        return Verdict(**verdict) if verdict else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        return RunFolder(self.path).read_metrics()

    @property
    def report(self) -> Path:
        """Return the path of the report page."""
        return self.path / "report.html"

    def summary(self) -> dict[str, Any]:
        """Return the stable last line of ``hjepa pretrain --json``."""
        record = self.record
        return {
            "verdict": record["verdict"]["verdict"] if record["verdict"] else None,
            "steps": record["steps"],
            "images_per_second": record["images_per_second"],
            "run": str(self.path),
        }


OF_PIXELS = "Level {} is computed from pixels, no weight takes part: it says nothing about pretraining."
SAME_IMAGES = "Training and test images are the same: this says nothing about other images; name two sets."


@dataclass(frozen=True)
class Evaluation:
    """Results beside their controls, and what they say in words."""

    results: list[Result]
    conclusion: str
    harm: str = ""  # what it means that the encoder is below random init, and what to do; empty if it is not

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa evaluate --json``."""
        results = [result.to_json() for result in self.results]
        return {"results": results, "conclusion": self.conclusion, "harm": self.harm}


class Silent:
    """A listener that says nothing; the base of those that do."""

    def on_start(self, resolved: Resolved, record: Mapping[str, Any], first_step: int) -> None:
        """Everything is checked and training begins."""

    def on_line(self, line: dict[str, Any], total_steps: int) -> None:
        """A line was added to metrics.jsonl."""

    def on_verdict(self, step: int, verdict: Verdict) -> None:
        """The verdict changed."""

    def on_notice(self, text: str) -> None:
        """Something a person should know."""


def pretrain(
    data: Any,
    /,  # so that the section of settings called data can be given by name
    *,
    out: str | os.PathLike[str],
    recipe: str | None = None,
    config: str | os.PathLike[str] | None = None,
    budget: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    extend_to: int | None = None,
    init_from: str | os.PathLike[str] | None = None,
    options: Sequence[str] = (),
    listener: Silent | None = None,
    command: str | None = None,
    **settings: Mapping[str, Any],
) -> Run:
    """Pretrain an encoder on ``data`` and write the run folder ``out``.

    ``data`` is a folder, a list file, an .npz file, a data set's name, a uint8 array [n, H, W, C] or a Dataset.
    ``budget`` is the time that the run may take, such as ``20min``. Settings are given by section:
    ``pretrain("photos", out="runs/a", train={"steps": 500})``. Raises UserError for anything a user can mend; a
    refused call leaves everything on disk as it was.
    """
    listener, started = listener or Silent(), time.perf_counter()
    folder = RunFolder(Path(out))
    layers = _layers(recipe, config, budget, options, settings)
    _refuse_contradictions(resume=resume, overwrite=overwrite, extend_to=extend_to, init_from=init_from)
    with contextlib.ExitStack() as held:
        if resume:
            record = folder.read_record()
            _hold(folder, held)
            resolved = _resumed(folder, layers, recipe, extend_to)
            source = open_source(data, resolved.config.data.channels)
            _refuse_other_images(source, record)
        else:
            folder.refuse_if_occupied(overwrite=overwrite)
            resolved, source = prepare(data, layers)
        accelerator = start_accelerator(resolved.config)
        resolved = agree(resolved)
        _check_before_training(resolved, accelerator)
        with _out_of_memory_in_words(resolved):
            resolved = keep_budget(resolved, source, accelerator, started=started)
            model = build_model(resolved.config)
            loaded = _saved(folder) if resume else None
            if resume and not loaded:
                init_from = record.get("init_from")
            notices = _load_into(model, init_from)
            if resume and not loaded:
                notices.append("the run had saved nothing yet: it begins again at its first step")
            if not resume:
                record = new_record(command or _as_call(data, out), source, model, resolved.config)
                record |= {"repeat": _repeat(data, out, init_from), "init_from": init_from and os.fspath(init_from)}
            trainer = build_trainer(resolved.config, model, accelerator)
            batches = Batches(resolved.config, source, accelerator)
            session = Session(resolved, source, trainer, batches, folder, record, listener, started)
            if loaded:
                session.restore(loaded)
            if extend_to is not None:
                notices += _horizon_notices(folder, resolved, trainer.step)
            if session.main:  # everything that can be refused has been; from here on files change
                if resume:
                    folder.cut_metrics(trainer.step)
                    checkpoints.drop_after(folder.checkpoints, trainer.step)
                else:
                    _hold(folder, held)
                    folder.create(record, overwrite=overwrite)
                write_config(folder, resolved)
                _write_mask_statistics(folder, resolved)
                listener.on_start(resolved, record, trainer.step)
                for text in (*notices, LOSS_NOTE):
                    listener.on_notice(text)
            accelerator.wait_for_everyone()
            session.measure_start()
            _train(session, from_weights=init_from is not None)
    return Run(Path(out).expanduser())


def _saved(folder: RunFolder) -> checkpoints.Checkpoint | None:
    """Return the newest checkpoint; None if the run was ended before its first one, so that nothing is lost by it."""
    if any(folder.checkpoints.glob("[!.]*")) or folder.encoder.exists():
        return checkpoints.load(folder.checkpoints / "last")
    return None


def _train(session: Session, *, from_weights: bool) -> None:
    """Run the session; whatever happens, its page is renewed and a run it replaced is not lost."""
    try:
        with audited(session, from_weights=from_weights):
            session.run()
    except BaseException:
        if session.main:
            session.folder.restore_replaced()
        raise
    finally:
        if session.main and session.folder.record.is_file():
            write_report(session.folder.path)


def _hold(folder: RunFolder, held: contextlib.ExitStack) -> None:
    """Keep other processes from training the same run; the first process holds it for all of a launch."""
    if os.environ.get("RANK", "0") == "0":
        held.enter_context(folder.locked())


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
    """Say what a run would do and cost: resolved settings, measured memory and time. Writes nothing."""
    resolved, source = prepare(data, _layers(recipe, config, budget, options, settings))
    accelerator = start_accelerator(resolved.config)
    _check_before_training(resolved, accelerator)
    with _out_of_memory_in_words(resolved):
        resolved = keep_budget(resolved, source, accelerator)
        return resolved, measure_plan(resolved.config, source, accelerator)


def prepare(data: Any, layers: list[Layer]) -> tuple[Resolved, ImageSource]:
    """Check settings, open the images, and fill what is open."""
    resolved = configuration.resolve(layers)
    source = open_source(data, resolved.config.data.channels)
    return complete(resolved, source), source


def evaluate(
    run: Run | str | os.PathLike[str],
    *,
    train: Any,
    test: Any,
    protocols: str | Sequence[str] = ("knn", "linear"),
    poolings: str | Sequence[str] = ("avg",),
    level: str | int = "last",
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Probe a run's target encoder on labelled images, beside random-init and raw pixels.

    ``protocols`` and ``poolings`` are names, or one with commas as on the command line.
    ``level`` is ``last``, the number of a level (0 is the finest), or ``all``: every level and the last block side by
    side, each with the same weight.
    Writes evaluation.json into the run after each measurement and renews its report at the end; what was measured
    before on the same images stays in both, unless it is measured again. Raises UserError in one line.
    """
    from hjepa.evaluation import protocol  # brings scikit-learn: not needed to train
    from hjepa.evaluation.levels import views_of

    protocols, poolings = _names(protocols), _names(poolings)
    for name, limit in (("max_train", max_train), ("max_test", max_test)):
        if limit is not None and limit < 1:
            raise UserError(f"--{name.replace('_', '-')} {limit}: must be at least 1, leave it out to use all images")
    path = _path(run)
    device = choose_device("auto")
    precision, _reason = choose_precision("auto", device)
    encoder = load_frozen(path).to(device)
    control = random_twin(encoder, seed=encoder.card["provenance"]["seed"]).to(device)
    preprocess = encoder.card["preprocess"]
    fit = Fit(tuple(preprocess["image_size"]), len(preprocess["mean"]), preprocess["fit"])
    sources = [open_source(data, fit.channels) for data in (train, test)]
    renumber_classes(*sources)
    labelled = [
        FittedImages(source, fit, limit=limit) for source, limit in zip(sources, (max_train, max_test), strict=True)
    ]
    folder = RunFolder(path)
    of_pixels = {str(number) for number, each in enumerate(encoder.card_levels) if each.depth == 0}
    same_images = sources[0].fingerprint() == sources[1].fingerprint()
    in_words = partial(_in_words, same_images=same_images, of_pixels=of_pixels)

    def harm(results: Sequence[Result]) -> str:
        return protocol.harm(_judged(results, of_pixels))

    record = {
        "train": labelled[0].name,
        "test": labelled[1].name,
        "images": [fingerprint_with_labels(source) for source in sources],
        "step": encoder.card["provenance"]["step"],
        "precision": precision,
    }

    def keep(results: Sequence[Result]) -> None:
        everything = [*_measured_before(folder.evaluation, results, record), *results]
        written = Evaluation(everything, in_words(everything), harm(everything))
        write_json(folder.evaluation, written.to_json() | record)

    results = protocol.evaluate(
        views_of(encoder, str(level)),
        views_of(control, str(level)),
        *labelled,
        level=str(level),
        protocols=protocols,
        poolings=poolings,
        seed=seed,
        batch_size=64 if device.type == "cpu" else 256,  # on a CPU activations that fit its caches are faster
        device=device,
        autocast=autocast_dtype(precision),
        progress=progress,
        keep=keep,
    )
    if folder.record.is_file():
        write_report(path)
    return Evaluation(results, in_words(results), harm(results))


def _judged(results: Sequence[Result], of_pixels: Collection[str]) -> list[Result]:
    """Return the results that say something of the encoder: levels of pixels are the same for every one."""
    return [result for result in results if result.level not in of_pixels]


def _in_words(results: Sequence[Result], *, same_images: bool, of_pixels: Collection[str]) -> str:
    """Say what results show; levels in ``of_pixels`` judge no encoder."""
    from hjepa.evaluation import protocol

    judged = _judged(results, of_pixels)
    said = [SAME_IMAGES] if same_images else []
    said += [OF_PIXELS.format(level) for level in sorted({result.level for result in results} & set(of_pixels))]
    said += [protocol.conclusion(judged)] if judged else []
    return " ".join(said)


def _measured_before(path: Path, now: Sequence[Result], record: Mapping[str, Any]) -> list[Result]:
    """Return what evaluation.json holds that was measured in the same way, and not again now."""
    from hjepa.evaluation import Result

    try:
        known = json.loads(path.read_text())
        earlier = [Result.from_json(row) for row in known["results"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or of another version
        return []
    if any(known.get(name) != value for name, value in record.items()):
        return []
    again, counts = {result.key for result in now}, {(result.n_train, result.n_test) for result in now}
    return [one for one in earlier if one.key not in again and (one.n_train, one.n_test) in counts]


def load_encoder(run: Run | str | os.PathLike[str]) -> FrozenEncoder:
    """Load a run's target encoder: a module that maps images [B, C, H, W] to tokens and pooled features."""
    return load_frozen(_path(run))


def _names(given: str | Sequence[str]) -> Sequence[str]:
    """Return names given one by one, or in one string as on the command line."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _path(run: Run | str | os.PathLike[str]) -> Path:
    return run.path if isinstance(run, Run) else Path(run).expanduser()


def _layers(
    recipe: str | None,
    config: str | os.PathLike[str] | None,
    budget: str | None,
    options: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
) -> list[Layer]:
    """Return what was given, in rising order of precedence."""
    options = [*options, *(["--train.budget", budget] if budget is not None else [])]
    given = [Layer("call", settings)] if settings else []
    given += [configuration.read_options(options)] if options else []
    trains = [layer.values.get("train") or {} for layer in given]
    if settings:  # with the call's budget, which is one of its lengths
        configuration.refuse_two_lengths({"train": {name: v for train in trains for name, v in train.items()}})
    layers = [configuration.read_recipe(recipe)] if recipe else []
    if config is not None:
        layers += (from_file := configuration.read_file(Path(config)))
        named = from_file[-1].values.get("recipe")
        if recipe and named not in (None, recipe):
            raise UserError(f"--recipe {recipe} and the recipe {named} of {config}: leave one of them out")
    elif not recipe:
        asked = {name: v for train in trains for name, v in train.items()}  # the command line last
        layers += _chosen_recipe(asked.get("budget"), str(asked.get("device", "auto")))
    return [*layers, *given]


def _chosen_recipe(budget: Any, wanted: str) -> list[Layer]:
    """Return the recipe for a budget on a device of this machine, and why; the default without a budget."""
    try:
        seconds = configuration.budget_seconds(str(budget))
    except ValueError:  # the budget itself is refused where it is read; None is no budget
        return [configuration.read_recipe(DEFAULT_RECIPE)]
    device = choose_device(wanted).type
    shorter, limit, longer = RECIPES_BY_BUDGET[device]
    name = longer if seconds >= limit else shorter
    return [configuration.read_recipe(name), Layer(f"recipe chosen for {budget} on {device}", {"recipe": name})]


def _refuse_contradictions(
    *, resume: bool, overwrite: bool, extend_to: int | None, init_from: str | os.PathLike[str] | None
) -> None:
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: continue the run, or replace it")
    if resume and init_from is not None:
        raise UserError("--init-from starts a new run, --resume continues one: leave one of them out")
    if extend_to is not None and not resume:
        raise UserError("--extend-to lengthens a run that exists: add --resume, or set --train.steps for a new run")


def _resumed(folder: RunFolder, layers: list[Layer], recipe: str | None, extend_to: int | None) -> Resolved:
    """Return the run's own configuration; raises UserError if what was given differs from it."""
    try:
        saved = configuration.load(folder.config.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder.path} has no config.yaml: nothing to resume") from None
    except yaml.YAMLError:
        raise UserError(f"{folder.config} is damaged: restore it, or start again with --overwrite") from None
    if recipe and recipe != saved.config.recipe:
        was = saved.config.recipe
        raise UserError(f"--recipe {recipe} differs from the run's {was}: leave it out to resume, or start a new run")
    own = saved.config.model_dump(mode="json")
    changes: dict[str, tuple[Any, str]] = {}
    given = [layer for layer in layers if not layer.origin.startswith("recipe ")]
    for layer in given:
        if layer.values.get("recipe") not in (None, saved.config.recipe):
            was, now = saved.config.recipe, layer.values["recipe"]
            raise UserError(f"{layer.origin}: recipe {now} differs from the run's {was}: start a new run")
    # On top of the run's own values: what was given need not make sense with the defaults.
    before = Layer("the run", configuration.by_name(saved.config))
    resolved = configuration.resolve([before, *given])
    wanted = resolved.config.model_dump(mode="json")
    for name, origin in resolved.origin.items():
        section, _, field = name.partition(".")
        if origin in ("default", before.origin) or not field or own[section][field] == wanted[section][field]:
            continue
        if wanted[section][field] in (None, "auto") and saved.origin[name].startswith("derived"):
            continue  # left open, as it was when the run began
        length = name in configuration.LENGTHS
        if length or name not in FREE_TO_CHANGE:
            remedy = "use --extend-to" if length else "start a new run, --init-from takes its weights"
            raise UserError(
                f"{name} = {wanted[section][field]} differs from the run's {own[section][field]}: "
                f"leave it out to resume, or {remedy}"
            )
        changes[name] = (wanted[section][field], "changed at resume")
    if extend_to is not None:
        if extend_to < (saved.config.train.steps or 0):
            raise UserError(
                f"--extend-to {extend_to}: the run has {saved.config.train.steps} steps already, name a larger number"
            )
        changes["train.steps"] = (extend_to, f"--extend-to, was {saved.config.train.steps}")
    return configuration.derive(saved, changes)


def _refuse_other_images(source: ImageSource, record: Mapping[str, Any]) -> None:
    was, is_now = record["data"]["fingerprint"], source.fingerprint()
    if was != is_now:
        raise UserError(
            f"{source.name} is not what this run was trained on ({record['data']['source']}, {was}; now {is_now}): "
            "resume with the same images, or start a new run with --init-from"
        )


def _check_before_training(resolved: Resolved, accelerator: Accelerator) -> None:
    """Raise UserError for masks, shares or memory that cannot work."""
    config = resolved.config
    if accelerator.device.type != config.train.device:
        raise UserError(
            f"train.device = {config.train.device}, but the launcher chose {accelerator.device.type}: "
            f"use --train.device {accelerator.device.type}, or launch without --cpu"
        )
    mask_sampler(config)
    Share(config.optim.batch_size, accelerator.num_processes, 0, config.optim.accumulate)
    if config.optim.batch_size // (accelerator.num_processes * config.optim.accumulate) < 2:
        raise UserError(
            f"optim.batch_size = {config.optim.batch_size}: a micro-batch needs at least 2 images, because each is "
            "compared with another one; use a larger --optim.batch_size or a smaller --optim.accumulate"
        )
    refuse_too_large(config, accelerator.num_processes)


def _load_into(model: Any, path: str | os.PathLike[str] | None) -> list[str]:
    if path is None:
        return []
    return [f"--init-from {path}: {matched}" for matched in load_starting_weights(model, Path(path))]


def _horizon_notices(folder: RunFolder, resolved: Resolved, step: int) -> list[str]:
    """Say what a new horizon does to each schedule at the step where the run goes on."""
    before = configuration.load(folder.config.read_text()).config
    return [f"--extend-to: {text}" for text in horizon_change(before, resolved.config, step)]


def horizon_change(before: configuration.Config, after: configuration.Config, step: int) -> list[str]:
    """Return a line for each schedule: its value in the next step under the old and the new horizon."""
    rows = [
        (name, getattr(schedules_of(before), name)(step), getattr(schedules_of(after), name)(step))
        for name in ("lr", "weight_decay", "variance_covariance")
        if name != "variance_covariance" or before.optim.variance_covariance
    ]
    rows.append(("momentum", momentum_of(before)(step), momentum_of(after)(step)))
    horizon = f"at step {step}, horizon {before.train.steps} -> {after.train.steps}"
    return [f"{name} {old:.6g} -> {new:.6g} {horizon}" for name, old, new in rows]


def _write_mask_statistics(folder: RunFolder, resolved: Resolved) -> None:
    # Of contexts: the released sampler shows less the more masks it draws at once.
    batch = resolved.config.optim.batch_size * resolved.config.masking.contexts
    steps = min(64, max(4, 4096 // batch))
    statistics = coverage(mask_sampler(resolved.config), resolved.config.grid, steps=steps, batch=batch)
    write_json(folder.masks, statistics.to_json() | {"svg": svg(statistics)})


@contextlib.contextmanager
def _out_of_memory_in_words(resolved: Resolved) -> Iterator[None]:
    """Turn an allocation that failed into the user's version of it; any other error goes its way."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if "out of memory" not in text and "allocate memory" not in text:
            raise
        optim = resolved.config.optim
        if optim.variance_covariance:
            raise UserError(
                f"out of memory with optim.batch_size = {optim.batch_size}: use a smaller one "
                "(optim.variance_covariance compares all images of a step, so it cannot be split)"
            ) from None
        raise UserError(
            f"out of memory with optim.batch_size = {optim.batch_size} in {optim.accumulate} micro-batches: "
            f"use --optim.accumulate {optim.accumulate * 2}; add --resume if the run had saved a checkpoint"
        ) from None


def mask_statistics(
    grid: str, *, options: Sequence[str] = (), steps: int = 200, batch: int = 256, seed: int = 0
) -> Coverage:
    """Draw masks on a grid such as ``14x14`` with settings of the section ``masking``, and count."""
    rows, cross, columns = grid.lower().partition("x")
    if not (cross and rows.isdigit() and columns.isdigit()):
        raise UserError(f"--grid {grid}: expected rows x columns, such as 14x14")
    for name, count in (("steps", steps), ("batch", batch)):
        if count < 1:
            raise UserError(f"--{name} {count}: must be at least 1")
    sides = int(rows), int(columns)
    given = configuration.read_options(list(options))
    if other := sorted(given.values.keys() - {"masking"}):
        raise UserError(f"--{other[0]}.*: hjepa masks takes settings of the section masking only")
    layers = [Layer("grid", {"data": {"image_size": sides}, "model": {"patch_size": 1}, "train": {"seed": seed}})]
    resolved = configuration.resolve([*layers, given])
    at_once = batch * resolved.config.masking.contexts
    return coverage(mask_sampler(resolved.config), sides, steps=steps, batch=at_once)


def doctor() -> dict[str, Any]:
    """Return what this machine can do."""
    device = choose_device("auto")
    precision, reason = choose_precision("auto", device)
    speeds = {str(kind).removeprefix("torch."): round(matmul_speed(kind)) for kind in (torch.float32, torch.bfloat16)}
    fashion = "found" if fashion_mnist_is_here() else "not here; apt-get install dataset-fashion-mnist, or be online"
    cifar10 = "found" if cifar10_is_here() else "not here; put cifar10.npz into ./data, or be online"
    return {
        "hjepa": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "accelerate")},
        **hardware(),
        "memory free (GB)": round(available_memory_gb(device), 1),
        "matrix products (GFLOP/s)": ", ".join(f"{name} {speed}" for name, speed in speeds.items()),
        "precision": f"{precision}: {reason}",
        "data set scenes": "embedded",
        "data set fashion-mnist": fashion,
        "data set cifar10": cifar10,
    }


def _repeat(data: Any, out: str | os.PathLike[str], init_from: str | os.PathLike[str] | None) -> str | None:
    """Return the command that does the run again from its own config.yaml; None if DATA was a Python object."""
    if not isinstance(data, str | os.PathLike):
        return None
    words = ["hjepa", "pretrain", str(data), "--config", str(Path(out) / "config.yaml"), "--out", f"{Path(out)}-again"]
    return shlex.join([*words, *(["--init-from", str(init_from)] if init_from is not None else [])])


def _as_call(data: Any, out: str | os.PathLike[str]) -> str:
    shown = repr(data) if isinstance(data, str) else type(data).__name__
    return f"hjepa.pretrain({shown}, out={os.fspath(out)!r}, ...)"


__all__ = ["Evaluation", "Run", "Silent", "evaluate", "load_encoder", "plan", "pretrain"]
