"""Strict, typed configuration: every value is checked once and remembers where it came from.

Values are merged in the order default < recipe < file < command line; what is still open is derived
from the data and the machine (see ``training/session.py``, ``complete``). Unknown keys are errors.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hjepa.errors import UserError

Range = tuple[float, float]


class Section(BaseModel):
    """A group of settings: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which images, and how they are brought to one size."""

    image_size: tuple[int, int] | None = Field(None, description="pixels, one number or H,W; open: from the images")
    channels: int | None = Field(None, ge=1, description="1 grey, 3 colour; open: as the images are")
    fit: Literal["crop", "pad"] = Field("crop", description="without random crops: cover and cut, or pad with black")
    mean: tuple[float, ...] | None = Field(None, description="per channel, in 0..1; open: measured")
    std: tuple[float, ...] | None = Field(None, description="per channel, in 0..1; open: measured")
    corrupt: Literal["error", "skip"] = Field("error", description="what to do with an image that cannot be read")
    workers: int | None = Field(None, ge=0, description="loader processes; open: 0 for images in memory")

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | str) else value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_channel(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("image_size")
    @classmethod
    def _positive(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value and min(value) < 1:
            raise ValueError("a size is at least one pixel")
        return value

    @model_validator(mode="after")
    def _as_many_as_channels(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values and self.channels and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels: give one for each")
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std = {list(self.std)} must be positive: it is divided by")
        return self


class AugmentConfig(Section):
    """Random crops and flips."""

    crop_scale: Range | None = Field((0.3, 1.0), description="share of the area kept by a crop; null: no crops")
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="width / height of a crop")
    flip: float = Field(0.0, ge=0, le=1, description="probability of a horizontal flip")

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ordered(cls, value: Range | None) -> Range | None:
        if value and not 0 < value[0] <= value[1]:
            raise ValueError("a range is two positive numbers, the smaller first")
        return value

    @field_validator("crop_scale")
    @classmethod
    def _share(cls, value: Range | None) -> Range | None:
        if value and value[1] > 1:
            raise ValueError("a crop keeps at most all of the area, 1")
        return value


class ModelConfig(Section):
    """Sizes of encoder and predictor."""

    patch_size: int | None = Field(None, ge=1, description="side of a patch in pixels; open: 8 patches across")
    width: int = Field(384, ge=4, description="encoder width D")
    depth: int = Field(12, ge=1, description="encoder blocks")
    heads: int = Field(6, ge=1, description="encoder attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of the MLPs / width")
    predictor_width: int = Field(192, ge=4, description="predictor width P")
    predictor_depth: int = Field(6, ge=1, description="predictor blocks")
    predictor_heads: int = Field(6, ge=1, description="predictor attention heads")
    initialisation: Literal["released", "xavier", "mimetic"] = Field(
        "released",
        description="standard deviation 0.02 as released, by the width of each layer, or with attention as trained",
    )
    levels: tuple[tuple[int, int], ...] | None = Field(
        None,
        description="predicted, shallow to deep: depths (0: pixels), or pairs of depth and stride; open: the last",
    )

    pixel_targets: Literal["values", "gradients"] = Field(
        "values", description="what a level of depth 0 is: a patch's pixels, or histograms of their gradients"
    )

    @field_validator("levels", mode="before")
    @classmethod
    def _with_strides(cls, value: Any) -> Any:
        if value is None:
            return None
        each = value if isinstance(value, list | tuple) else [value]
        return tuple((one, 1) if isinstance(one, int) else one for one in each)

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        for depth, stride in self.levels or ():
            if not 0 <= depth <= self.depth:
                raise ValueError(
                    f"levels has depth {depth}, and the encoder has model.depth = {self.depth} blocks: "
                    f"give levels from 0 (pixels) to {self.depth}, as in --model.levels 0,{self.depth}"
                )
            if stride < 1:
                raise ValueError(f"levels has stride {stride}: a cell is at least one patch wide")
        if self.levels is not None and (not self.levels or len(set(self.levels)) < len(self.levels)):
            raise ValueError("levels must be one or more different levels")
        if self.levels is not None and list(self.levels) != (ordered := sorted(self.levels)):
            shown = ",".join(str(depth) if stride == 1 else f"[{depth},{stride}]" for depth, stride in ordered)
            raise ValueError(f"levels go from shallow to deep, the last is what verdicts judge: write them as {shown}")
        if self.pixel_targets != "values" and not any(depth == 0 for depth, _ in self.levels or ()):
            raise ValueError(
                f"pixel_targets = {self.pixel_targets} is of levels of depth 0 and there is none: add 0 to levels, "
                "or use --model.pixel_targets values"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for part, width, heads in (
            ("width", self.width, self.heads),
            ("predictor_width", self.predictor_width, self.predictor_heads),
        ):
            if width % heads or width % 4:
                raise ValueError(f"{part} = {width} must be divisible by 4 and by its {heads} heads")
        return self


class MaskingConfig(Section):
    """Context and target blocks."""

    sampler: Literal["multiblock", "random", "ijepa-reference"] = Field(
        "multiblock", description="blocks, single patches at random, or the published blocks with their faults"
    )
    contexts: int = Field(1, ge=1, description="masks of an image for one pass of the target encoder")
    num_targets: int = Field(4, ge=1, description="target blocks K of an image")
    target_scale: Range = Field((0.15, 0.2), description="share of the grid covered by a target block")
    target_aspect: Range = Field((0.75, 1.5), description="height / width of a target block; random: not used")
    context_scale: Range = Field(
        (0.85, 1.0), description="share of the grid covered by the context block; random: that stays visible"
    )
    min_context: int = Field(4, ge=1, description="least number of visible patches")


class OptimConfig(Section):
    """Optimizer and its schedules."""

    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="AdamW, or Muon for the matrices of blocks and AdamW for the rest"
    )
    batch_size: int = Field(256, ge=1, description="images of one optimizer step, over all processes")
    accumulate: int = Field(1, ge=1, description="micro-batches a step is split into")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    start_lr: float = Field(2e-4, ge=0, description="learning rate at the start of the warm-up")
    final_lr: float = Field(1e-6, ge=0, description="learning rate at the end")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps spent on warm-up")
    weight_decay: float = Field(0.04, ge=0, description="weight decay at the start")
    final_weight_decay: float = Field(0.4, ge=0, description="weight decay at the end (cosine)")
    betas: Range = Field((0.9, 0.999), description="AdamW's, also beside Muon")
    clip_gradient: float | None = Field(None, gt=0, description="largest gradient norm; null: no clipping")
    loss: Literal["smooth-l1", "l2"] = Field("smooth-l1", description="smooth-L1 as released, l2 as in the paper")
    variance_covariance: float = Field(
        0.0, ge=0, description="weight at the start of a term that keeps images apart; falls to 0 (cosine)"
    )
    level_weights: tuple[float, ...] | None = Field(None, description="of each level's loss; open: all the same")

    @field_validator("level_weights")
    @classmethod
    def _weigh(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (min(value, default=0.0) < 0 or sum(value) <= 0):
            raise ValueError("weights are not negative, and one is positive")
        return value

    @model_validator(mode="after")
    def _compares_a_whole_batch(self) -> Self:
        if self.variance_covariance and self.accumulate > 1:
            raise ValueError(
                f"variance_covariance compares all images of a step, accumulate = {self.accumulate} never has them "
                "together: use accumulate 1 and a smaller batch_size, or variance_covariance 0"
            )
        return self

    @field_validator("betas")
    @classmethod
    def _shares(cls, value: Range) -> Range:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both lie between 0 and 1")
        return value


class EMAConfig(Section):
    """The target encoder's momentum: the teacher's share of the average."""

    momentum: float = Field(0.996, ge=0, le=1, description="at step 0")
    final_momentum: float = Field(1.0, ge=0, le=1, description="at the last step")
    kind: Literal["linear", "cosine", "constant"] = Field("linear", description="how it gets from one to the other")
    hold: float = Field(0.0, ge=0, lt=1, description="share of the steps at the first value")


LENGTHS = ("train.steps", "train.epochs", "train.budget")
"""Three ways to say how long; the last layer that says one takes back what earlier layers said."""


def budget_seconds(text: str) -> float:
    """Return the seconds of a time such as 90s, 20min or 1.5h; raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|d)", text)
    if not match or float(match[1]) <= 0:
        raise ValueError("a time is a number and its unit: 90s, 20min, 8h or 2d")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]]


class TrainConfig(Section):
    """Length, machine, and what is written how often."""

    steps: int | None = Field(None, ge=1, description="optimizer steps; open: from budget, or epochs")
    epochs: float = Field(100.0, gt=0, description="passes over the images, if steps is open")
    budget: str | None = Field(None, description="time that training may take, such as 20min or 8h, if steps is open")
    corrections: tuple[tuple[int, float], ...] = Field(
        (), description="written by a run that keeps a budget: steps where its length was corrected, pace from there on"
    )
    seed: int = Field(0, ge=0, description="of every random draw")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    precision: Literal["auto", "bf16", "fp16", "float32", "float64"] = Field(
        "auto", description="format of matrix products; weights stay in float32 (float64: everything)"
    )
    attention: Literal["auto", "fused", "plain"] = Field("auto", description="attention kernel; auto: measured")
    log_every: int = Field(20, ge=1, description="steps between two lines of metrics.jsonl")
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest are kept, besides the best")

    @field_validator("budget", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> Any:
        if value is not None:
            budget_seconds(str(value))
        return value

    @model_validator(mode="after")
    def _go_forward(self) -> Self:
        steps = [0, *(step for step, _ in self.corrections), self.steps or math.inf]
        if any(before >= after for before, after in pairwise(steps)) or any(rate <= 0 for _, rate in self.corrections):
            raise ValueError("corrections are pairs of a step, each later than the one before, and a positive pace")
        return self


class Config(Section):
    """Everything that decides what a run computes."""

    recipe: str | None = Field(None, description="the recipe it started from")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    masking: MaskingConfig = MaskingConfig()
    optim: OptimConfig = OptimConfig()
    ema: EMAConfig = EMAConfig()
    train: TrainConfig = TrainConfig()

    @property
    def grid(self) -> tuple[int, int]:
        """Return the patch grid (GH, GW)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the input size (H, W) in pixels; ValueError while it is open."""
        if self.data.image_size is None:
            raise ValueError("data.image_size is still open: call complete() first")
        return self.data.image_size

    @property
    def patch_size(self) -> int:
        """Return the side of a patch in pixels; ValueError while it is open."""
        if self.model.patch_size is None:
            raise ValueError("model.patch_size is still open: call complete() first")
        return self.model.patch_size

    @model_validator(mode="after")
    def _a_weight_for_each_level(self) -> Self:
        weights, levels = self.optim.level_weights, self.model.levels or ((self.model.depth, 1),)
        if weights is not None and len(weights) != len(levels):
            raise ValueError(f"optim.level_weights has {len(weights)} values for {len(levels)} levels: one for each")
        return self

    @model_validator(mode="after")
    def _trains_on_what_it_is_judged_on(self) -> Self:
        if self.augment.crop_scale is not None and self.data.fit == "pad":
            raise ValueError(
                "data.fit = pad pads the images of evaluation, augment.crop_scale fills those of training with crops: "
                "use data.fit crop, or augment.crop_scale none"
            )
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        patch = self.model.patch_size
        for side in self.data.image_size or ():
            if patch and side % patch:
                near = [s for s in (side // patch * patch, (side // patch + 1) * patch) if s]
                raise ValueError(
                    f"model.patch_size = {patch} does not divide data.image_size = {side}: use an image size of "
                    + " or ".join(map(str, near))
                )
        return self


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
            if name in LENGTHS and value is not None:
                for other in LENGTHS:
                    if other != name and origin[other] not in ("default", layer.origin):
                        origin[other] = "default"
                        del merged["train"][other.removeprefix("train.")]
            origin[name] = layer.origin
            _put(merged, name, value)
    try:
        return Resolved(Config.model_validate(merged), origin)
    except ValidationError as error:
        raise UserError(_one_line(error, origin)) from None


def derive(resolved: Resolved, values: Mapping[str, tuple[Any, str]]) -> Resolved:
    """Fill open values: dotted name -> (value, reason)."""
    merged = resolved.config.model_dump()
    origin = dict(resolved.origin)
    for name, (value, reason) in values.items():
        _put(merged, name, value)
        origin[name] = f"derived: {reason}"
    try:
        return Resolved(Config.model_validate(merged), origin)
    except ValidationError as error:
        raise UserError(_one_line(error, origin)) from None


def read_recipe(name: str) -> Layer:
    """Read a recipe that ships with hjepa."""
    names = recipe_names()
    if name not in names:
        raise UserError(f"unknown recipe {name!r}{_did_you_mean(name, names)}: the recipes are {', '.join(names)}")
    text = resources.files("hjepa.recipes").joinpath(f"{name}.yaml").read_text()
    return Layer(f"recipe {name}", {"recipe": name, **yaml.safe_load(text)})


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
        if name not in field_names():
            raise UserError(unknown_name(name, "command line"))
        if not equals:
            text = next(rest, "")
            if not text or text.startswith("--"):
                raise UserError(f"--{name} needs a value, such as --{name} {_example(name)}")
        _put(values, name, _parse(text))
    refuse_two_lengths(values, "--")
    return Layer("command line", values)


def refuse_two_lengths(values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError if one place says twice how long to train."""
    given = values.get("train") or {}
    lengths = [name for name in LENGTHS if given.get(name.removeprefix("train.")) is not None]
    if len(lengths) > 1:
        both = f"{prefix}{lengths[0]} and {prefix}{lengths[1]}"
        raise UserError(f"{both} both say how long to train: leave one of them out")


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
        text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        lines.append(f"{indent}{field}: {text}  # {resolved.origin[name]}")
    return "\n".join(lines) + "\n"


def load(text: str) -> Resolved:
    """Read what ``dump`` wrote; the origins are those in its comments, of settings it did not know the default."""
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise UserError("config.yaml holds no settings: restore it, or start again with --overwrite")
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


def field_names() -> list[str]:
    """Return all settings as dotted names."""
    return [name for name, _ in _fields(Config)]


def describe() -> list[tuple[str, str, str]]:
    """Return (dotted name, default, description) of all settings, for the help page."""
    return [(name, str(_plain(field.default)), field.description or "") for name, field in _fields(Config)]


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
    meant = _did_you_mean(name, known, "--" if origin == "command line" else "")
    return f"unknown setting {shown}{where}{meant or ': hjepa pretrain --help lists all settings'}"


def _did_you_mean(name: str, known: list[str], prefix: str = "") -> str:
    field = name.rpartition(".")[2]
    close = [k for k in known if k.rpartition(".")[2] == field][:1]  # the right field in the wrong section
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {prefix}{close[0]}?" if close else ""


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _example(name: str) -> Any:
    if name == "train.budget":
        return "20min"
    default = dict(_fields(Config))[name].default
    return 1 if default is None else ",".join(map(str, default)) if isinstance(default, tuple) else default


def _one_line(error: ValidationError, origin: Mapping[str, str]) -> str:
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
    return f"{name} = {_plain(first['input'])!r}{shown}: {message[0].lower()}{message[1:]}"
