"""Every setting: its type, its default, what it is for, and what it refuses.

A value of ``auto`` is filled from the data and the machine (``setup/autoconfig.py``); until then it is None in Python.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hjepa.config.images import AugmentConfig, DataConfig
from hjepa.config.length import parse_length
from hjepa.config.masking import MaskingConfig, MultiblockMasking, Range
from hjepa.config.section import AUTO, AutoOnOff, OnOff, Section, fields_of, is_auto


class ModelConfig(Section):
    """Sizes of encoder and predictor."""

    patch_size: int | None = Field(
        None, ge=1, description="Patch size in pixels. auto: 7 or 8 patches across.", json_schema_extra=AUTO
    )
    width: int = Field(384, ge=4, description="Embedding dimension of the encoder.")
    depth: int = Field(12, ge=1, description="Number of encoder blocks.")
    heads: int = Field(6, ge=1, description="Number of attention heads of the encoder.")
    mlp_ratio: float = Field(4.0, gt=0, description="Ratio of MLP hidden dimension to embedding dimension.")
    predictor_width: int = Field(192, ge=4, description="Embedding dimension of the predictor.")
    predictor_depth: int = Field(6, ge=1, description="Number of predictor blocks.")
    predictor_heads: int = Field(6, ge=1, description="Number of attention heads of the predictor.")
    initialisation: Literal["released", "xavier", "mimetic"] = Field(
        "released",
        description="Weight initialisation: truncated normal (std 0.02) as released, Xavier, or mimetic attention.",
    )
    levels: tuple[tuple[int, int], ...] | None = Field(
        None,
        description="Prediction targets, shallow to deep: encoder depths (0 for pixels) or [depth, stride] pairs. "
        "auto: the last block.",
        json_schema_extra=AUTO,
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


class LossConfig(Section):
    """What is minimised."""

    kind: Literal["smooth-l1", "l2"] = Field(
        "smooth-l1", description="Prediction loss: smooth L1 as in the released code, or squared L2 as in the paper."
    )
    level_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each level's loss. auto: all equal.", json_schema_extra=AUTO
    )
    level_warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the steps over which deeper levels come in one after the other, shallow to deep: the "
        "weight of each rises linearly from 0, while the first level counts from the start. 0: all from the start.",
    )
    pixel_targets: Literal["values", "gradients"] = Field(
        "values", description="Targets of a level of depth 0: normalised pixels, or histograms of gradients (HOG)."
    )
    variance_covariance: float = Field(
        0.0,
        ge=0,
        description="Initial weight of the VICReg variance-covariance regulariser; decays to 0 along a cosine.",
    )

    @field_validator("level_weights")
    @classmethod
    def _weigh(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (min(value, default=0.0) < 0 or sum(value) <= 0):
            raise ValueError("weights must not be negative, and at least one must be positive")
        return value


class OptimConfig(Section):
    """Optimizer and its schedules."""

    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="AdamW, or Muon for the weight matrices of the blocks and AdamW for everything else."
    )
    batch_size: int = Field(256, ge=1, description="Images per optimizer step, over all processes.")
    accumulate: int = Field(1, ge=1, description="Number of micro-batches per optimizer step (gradient accumulation).")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    start_lr: float = Field(2e-4, ge=0, description="Learning rate at the start of the warm-up.")
    final_lr: float = Field(1e-6, ge=0, description="Learning rate at the end of training.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Fraction of the steps used for learning rate warm-up.")
    weight_decay: float = Field(0.04, ge=0, description="Weight decay at the start of training.")
    final_weight_decay: float = Field(0.4, ge=0, description="Weight decay at the end of training (cosine schedule).")
    betas: Range = Field((0.9, 0.999), description="Betas of AdamW, also for the AdamW part of Muon.")
    clip_gradient: float | None = Field(
        None, gt=0, description="Maximum norm for gradient clipping; none: no clipping."
    )

    @field_validator("betas")
    @classmethod
    def _shares(cls, value: Range) -> Range:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both lie between 0 and 1")
        return value


class EMAConfig(Section):
    """The target encoder's momentum: the teacher's share of the average."""

    momentum: float = Field(0.996, ge=0, le=1, description="EMA momentum at the start of training.")
    final_momentum: float = Field(1.0, ge=0, le=1, description="EMA momentum at the end of training.")
    kind: Literal["linear", "cosine", "constant"] = Field("linear", description="Shape of the momentum schedule.")
    hold: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the steps for which momentum stays at its first value."
    )


def _plain_number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


class TrainConfig(Section):
    """Length, machine, and what is written how often."""

    length: str = Field(
        "100 epochs",
        description="How long to train: a number of steps, of epochs, or a time (2340 steps, 300 epochs, 20min).",
    )
    seed: int = Field(0, ge=0, description="Random seed.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Device to train on.")
    precision: Literal["auto", "bf16", "fp16", "float32", "float64"] = Field(
        "auto",
        description="Data type of matrix products; weights stay in float32 (with float64 everything is float64).",
    )
    attention: Literal["auto", "fused", "plain"] = Field(
        "auto", description="Attention kernel. auto: the faster one, measured."
    )
    capture: AutoOnOff = Field(
        "auto",
        description="Whether steps are recorded as CUDA graphs and replayed. auto: on a GPU, unless several processes "
        "train together or precision is fp16.",
    )
    activation_checkpointing: OnOff = Field(
        "off",
        description="Whether the backward pass computes each block's activations again instead of keeping them: about "
        "a quarter slower, with much less memory, and the same numbers.",
    )
    log_every: int = Field(20, ge=1, description="Steps between two lines of metrics.jsonl.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(
        2, ge=1, description="Number of most recent checkpoints to keep, besides the best one."
    )

    @field_validator("length", mode="before")
    @classmethod
    def _is_a_length(cls, value: Any) -> Any:
        text = str(value)
        length = parse_length(text)
        return text if length.unit == "seconds" else f"{_plain_number(length.amount)} {length.unit}"


class HorizonConfig(Section):
    """What ``train.length`` came to; written by a run, never set."""

    length: str | None = Field(
        None, description="The train.length that it came from; with another one it does not count."
    )
    steps: int | None = Field(None, ge=1, description="Number of optimizer steps.")
    corrections: tuple[tuple[int, float], ...] = Field(
        (),
        description="Steps at which a run that keeps a time budget corrected its length, and the pace from there on.",
    )

    @model_validator(mode="after")
    def _go_forward(self) -> Self:
        steps = [0, *(step for step, _ in self.corrections), self.steps or math.inf]
        if any(before >= after for before, after in pairwise(steps)) or any(rate <= 0 for _, rate in self.corrections):
            raise ValueError("corrections are pairs of a step, each later than the one before, and a positive pace")
        return self


class Config(Section):
    """Everything that decides what a run computes."""

    recipe: str | None = Field(None, description="The recipe it started from.")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    masking: MaskingConfig = MultiblockMasking()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    ema: EMAConfig = EMAConfig()
    train: TrainConfig = TrainConfig()
    horizon: HorizonConfig = HorizonConfig()

    @property
    def grid(self) -> tuple[int, int]:
        """Return the patch grid (GH, GW)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the input size (H, W) in pixels; ValueError while it is auto."""
        if self.data.image_size is None:
            raise ValueError("data.image_size is still auto: call resolve_auto() first")
        return self.data.image_size

    @property
    def patch_size(self) -> int:
        """Return the side of a patch in pixels; ValueError while it is auto."""
        if self.model.patch_size is None:
            raise ValueError("model.patch_size is still auto: call resolve_auto() first")
        return self.model.patch_size

    @model_validator(mode="after")
    def _loss_fits_levels(self) -> Self:
        weights, levels = self.loss.level_weights, self.model.levels or ((self.model.depth, 1),)
        if weights is not None and len(weights) != len(levels):
            raise ValueError(
                f"loss.level_weights has {len(weights)} values for {len(levels)} levels: give one for each"
            )
        if self.loss.level_warmup and len(levels) < 2:
            raise ValueError(
                f"loss.level_warmup = {self.loss.level_warmup:g} is for deeper levels, and there is a single one: add "
                f"levels, as in --model.levels 0,{self.model.depth}, or use --loss.level_warmup 0"
            )
        if self.loss.level_warmup and weights is not None and weights[0] == 0:
            raise ValueError(
                f"loss.level_warmup = {self.loss.level_warmup:g} starts with the first level alone, whose "
                "loss.level_weights is 0: give it a positive weight, or use --loss.level_warmup 0"
            )
        if self.loss.pixel_targets != "values" and not any(depth == 0 for depth, _ in levels):
            raise ValueError(
                f"loss.pixel_targets = {self.loss.pixel_targets} needs a level of depth 0: add 0 to model.levels, "
                "or use --loss.pixel_targets values"
            )
        return self

    @model_validator(mode="after")
    def _compares_a_whole_batch(self) -> Self:
        if self.loss.variance_covariance and self.optim.accumulate > 1:
            raise ValueError(
                f"loss.variance_covariance compares all images of a step, and optim.accumulate = "
                f"{self.optim.accumulate} never has them together: use optim.accumulate 1 and a smaller "
                "optim.batch_size, or loss.variance_covariance 0"
            )
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
    """Return all settings as dotted names, those that a run writes included."""
    return [name for name, _ in all_fields()]


def all_fields() -> Iterator[tuple[str, Any]]:
    """Yield each setting's dotted name and pydantic's description of it; of a union, each name once."""
    return fields_of(Config)


def auto_names() -> set[str]:
    """Return the settings whose None is written as ``auto``."""
    return {name for name, field in all_fields() if is_auto(field)}
