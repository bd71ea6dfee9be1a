"""Settings of the images: which they are, how they are read and brought to one size, and how they are augmented."""

import contextlib
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hjepa.config.masking import Range
from hjepa.config.section import AUTO, ON_OFF, Section


class DataConfig(Section):
    """Which images, and how they are brought to one size."""

    image_size: tuple[int, int] | None = Field(
        None,
        description="Input size in pixels, one number or H,W. auto: from the size of the images.",
        json_schema_extra=AUTO,
    )
    channels: int | None = Field(
        None, ge=1, description="1 for grey, 3 for colour. auto: as in the images.", json_schema_extra=AUTO
    )
    pages: Literal["first", "all"] = Field(
        "first",
        description="What of a TIFF of several pages, or of an animation, is an image: its first page, or all, each by "
        "itself.",
    )
    fit: Literal["crop", "pad"] = Field(
        "crop", description="Resize mode without random crops: resize and centre-crop, or pad with black."
    )
    mean: tuple[float, ...] | None = Field(
        None, description="Mean per channel, in 0..1. auto: measured.", json_schema_extra=AUTO
    )
    std: tuple[float, ...] | None = Field(
        None, description="Standard deviation per channel, in 0..1. auto: measured.", json_schema_extra=AUTO
    )
    value_range: Range | None = Field(
        None,
        description="Values that become black and white in images of more than 8 bits (16-bit, float), LOW,HIGH; the "
        "same for all images. auto: measured, if there are such images.",
        json_schema_extra=AUTO,
    )
    max_bad: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Fraction of the images that may be unreadable, as 0.01 or 1%; they are skipped and named, and "
        "more of them end the run.",
    )
    cache: Annotated[str, ON_OFF] = Field(
        "auto",
        description="Whether decoded images are kept on disk: auto (if training waits for them and there is room), on, "
        "off, or the folder to keep them in.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="Number of data loader processes. auto: 2 for files, 0 for images in memory.",
        json_schema_extra=AUTO,
    )

    @field_validator("max_bad", mode="before")
    @classmethod
    def _percentage(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().endswith("%"):
            with contextlib.suppress(ValueError):
                return float(value.strip().removesuffix("%")) / 100
        return value

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | str) else value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_channel(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("value_range")
    @classmethod
    def _low_then_high(cls, value: Range | None) -> Range | None:
        if value and not (math.isfinite(value[0]) and value[0] < value[1] < math.inf):
            raise ValueError("a range is two numbers, the smaller first")
        return value

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

    crop_scale: Range | None = Field(
        (0.3, 1.0), description="Fraction of the image area that a random crop keeps; none: no crops."
    )
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="Aspect ratio (width / height) of a random crop.")
    flip: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip.")

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
