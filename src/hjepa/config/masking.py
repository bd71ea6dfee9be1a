"""The settings of the masks: one section for each sampler, so that no setting is meaningless for the chosen one."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from hjepa.config.section import Section

Range = tuple[float, float]

SAMPLER = (
    "multiblock: blocks, as in I-JEPA; random: single patches, as in MAE; "
    "ijepa-reference: the released I-JEPA sampler, its faults included."
)


class Masking(Section):
    """What every mask sampler is told."""

    contexts: int = Field(
        1, ge=1, description="Number of masks per image; the target encoder runs once for all of them."
    )


class MultiblockMasking(Masking):
    """Rectangular context and target blocks (I-JEPA)."""

    sampler: Literal["multiblock"] = Field("multiblock", description=SAMPLER)
    num_targets: int = Field(4, ge=1, description="Number of target blocks per mask.")
    target_scale: Range = Field((0.15, 0.2), description="Fraction of the patches that one target covers.")
    target_aspect: Range = Field((0.75, 1.5), description="Aspect ratio (height / width) of a target block.")
    context_scale: Range = Field((0.85, 1.0), description="Fraction of the patches that the context covers.")
    min_context: int = Field(4, ge=1, description="Minimum number of visible patches.")


class RandomMasking(Masking):
    """Single patches at random (MAE)."""

    sampler: Literal["random"] = Field("random", description=SAMPLER)
    num_targets: int = Field(1, ge=1, description="Number of target blocks per mask.")
    target_scale: Range = Field((0.7, 0.7), description="Fraction of the patches that one target covers.")
    context_scale: Range = Field((0.3, 0.3), description="Fraction of the patches that the context covers.")
    min_context: int = Field(1, ge=1, description="Minimum number of visible patches.")


class ReferenceMasking(Masking):
    """The sampler of the released I-JEPA, its faults included."""

    sampler: Literal["ijepa-reference"] = Field("ijepa-reference", description=SAMPLER)
    num_targets: int = Field(4, ge=1, description="Number of target blocks per mask.")
    target_scale: Range = Field((0.15, 0.2), description="Fraction of the patches that one target covers.")
    target_aspect: Range = Field((0.75, 1.5), description="Aspect ratio (height / width) of a target block.")
    context_scale: Range = Field((0.85, 1.0), description="Fraction of the patches that the context covers.")
    min_keep: int = Field(4, ge=1, description="A block is drawn again unless it keeps more patches than this.")


SAMPLERS: dict[str, type[Masking]] = {
    "multiblock": MultiblockMasking,
    "random": RandomMasking,
    "ijepa-reference": ReferenceMasking,
}


def _sampler_of(masking: Any) -> str:
    given = masking.get("sampler", "multiblock") if isinstance(masking, dict) else masking.sampler
    return str(given)


MaskingConfig = Annotated[
    Annotated[MultiblockMasking, Tag("multiblock")]
    | Annotated[RandomMasking, Tag("random")]
    | Annotated[ReferenceMasking, Tag("ijepa-reference")],
    Discriminator(
        _sampler_of,
        custom_error_type="unknown_sampler",
        custom_error_message=f"must be one of {', '.join(SAMPLERS)}",
    ),
]


def samplers_with(name: str) -> list[str]:
    """Return the mask samplers that have a setting ``masking.NAME``."""
    return [sampler for sampler, section in SAMPLERS.items() if name.removeprefix("masking.") in section.model_fields]
