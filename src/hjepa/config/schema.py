"""Every setting: its type, its default, what it is for, and what it refuses.

A value that is open (None, or ``auto``) is filled from the data and the machine (``setup/autoconfig.py``).
"""

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
            raise ValueError("data.image_size is still open: call resolve_auto() first")
        return self.data.image_size

    @property
    def patch_size(self) -> int:
        """Return the side of a patch in pixels; ValueError while it is open."""
        if self.model.patch_size is None:
            raise ValueError("model.patch_size is still open: call resolve_auto() first")
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


def field_names() -> list[str]:
    """Return all settings as dotted names."""
    return [name for name, _ in all_fields()]


def all_fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting's dotted name and pydantic's description of it."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from all_fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
