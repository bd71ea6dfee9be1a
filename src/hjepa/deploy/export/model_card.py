"""README.md beside an export, in the form that the Hugging Face hub reads: all a stranger has to know to use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hjepa.deploy.export.check_images import CheckImages
from hjepa.deploy.export.comparison import CLOSE, Comparison
from hjepa.deploy.export.export_format import ExportFormat
from hjepa.models.frozen import FrozenEncoder
from hjepa.version import __version__

RESIZE = {
    "crop": "scale it so that it covers {height}x{width} pixels (bilinear, with antialiasing), then cut the centre",
    "pad": (
        "scale it down if it is larger than {height}x{width} pixels (bilinear, with antialiasing), never up, "
        "then centre it on black"
    ),
}


@dataclass(frozen=True)
class CardFacts:
    """What a model card reports beside the encoder itself; run.json and evaluation.json are empty if there are none."""

    title: str
    licence: str
    command: str
    images: CheckImages  # that were compared on
    record: Mapping[str, Any]
    evaluation: Mapping[str, Any]


def model_card(
    export: ExportFormat, encoder: FrozenEncoder, level: int | None, comparison: Comparison, facts: CardFacts
) -> str:
    """Return the whole page."""
    sections = [
        _header(export, encoder, facts),
        f"## How to use it\n\n```python\n{export.usage(encoder)}```\n\n{export.note(encoder)}",
        _preprocessing(export, encoder),
        _features(encoder, level),
        _training(encoder, facts.record),
        _evaluation(encoder, facts.evaluation),
        _fidelity(comparison, facts),
        _licence(facts.licence),
        f"## Command\n\n```sh\n{facts.command}\n```",
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _header(export: ExportFormat, encoder: FrozenEncoder, facts: CardFacts) -> str:
    warning = f"\n\n**{facts.evaluation['harm']}**" if facts.evaluation.get("harm") else ""
    return f"""---
license: {facts.licence}
library_name: {export.library}
pipeline_tag: image-feature-extraction
tags:
- self-supervised-learning
- i-jepa
- hjepa
---

# {facts.title}

{_introduction(encoder)}{warning}"""


def _introduction(encoder: FrozenEncoder) -> str:
    sizes = encoder.card["timm"]
    height, width = sizes["img_size"]
    channels = "1 channel" if sizes["in_chans"] == 1 else f"{sizes['in_chans']} channels"
    return (
        "A vision transformer, pretrained without labels by predicting representations (I-JEPA, "
        "[Assran et al. 2023](https://arxiv.org/abs/2301.08243)) with hjepa "
        f"{encoder.card['provenance'].get('hjepa', __version__)}. It is the target encoder of the run: "
        f"{sizes['depth']} blocks of width {sizes['embed_dim']}, {sizes['num_heads']} heads, patches of "
        f"{sizes['patch_size']} pixels, no class token, fixed sine-cosine positions. Images have {channels} and "
        f"{height}x{width} pixels."
    )


def _preprocessing(export: ExportFormat, encoder: FrozenEncoder) -> str:
    preprocess, channels = encoder.card["preprocess"], len(encoder.mean)
    height, width = preprocess["image_size"]
    steps = [
        "turn the image upright (EXIF)",
        {
            1: "convert it to greyscale (ITU-R BT.601, Pillow's mode `L`)",
            3: "convert it to RGB; transparent images are composited on white, greyscale is repeated",
            4: "keep its four channels (of colour images, red, green, blue and the fourth band)",
        }.get(channels, f"keep its {channels} channels"),
        _values(encoder),
        RESIZE[preprocess["fit"]].format(height=height, width=width),
    ]
    mean, std = (", ".join(f"{value:g}" for value in preprocess[name]) for name in ("mean", "std"))
    steps.append(
        f"subtract the mean ({mean}) and divide by the standard deviation ({std}), per channel"
        + ("; this step is inside the exported graph, do not do it again" if export.normalises else "")
    )
    written = "\n".join(f"{number}. {step[0].upper()}{step[1:]}." for number, step in enumerate(steps, start=1))
    return f"## Preprocessing\n\n{written}\n\nSteps 3 and 4 in torchvision:\n\n```python\n{resize_code(encoder)}```"


def _values(encoder: FrozenEncoder) -> str:
    if encoder.value_range is None:
        return "bring its values to 0..1: bytes are divided by 255"
    low, high = encoder.value_range
    return (
        f"bring its values to 0..1: images of more than 8 bits by `(values - {low:g}) / ({high:g} - {low:g})`, clipped "
        "to 0..1; bytes are divided by 255"
    )


def resize_code(encoder: FrozenEncoder) -> str:
    """Return Python code that brings ``pixels`` [C, H', W'] to ``image``: floats in 0..1 in the encoder's size."""
    preprocess = encoder.card["preprocess"]
    height, width = preprocess["image_size"]
    scale = "max(H / h, W / w)" if preprocess["fit"] == "crop" else "min(1.0, H / h, W / w)"
    unit = "pixels / 255"
    first = ""
    if encoder.value_range is not None:
        low, high = encoder.value_range
        first = f"pixels = ((pixels.float() - {low!r}) / ({high!r} - {low!r})).clamp(0, 1)  # of more than 8 bits\n"
        unit = "pixels"
    return f"""import torchvision.transforms.v2.functional as F

H, W = {height}, {width}
{first}h, w = pixels.shape[-2:]
scale = {scale}
pixels = F.resize(pixels, [max(1, round(h * scale)), max(1, round(w * scale))], antialias=True)
image = F.center_crop({unit}, [H, W])
"""


def _features(encoder: FrozenEncoder, level: int | None) -> str:
    lines = [
        "## Features",
        "",
        "`tokens` has one vector per patch, in raster order, after the last block and the final norm; `pooled` is "
        "their mean, which is how these encoders are evaluated. Features are not L2-normalised.",
    ]
    if level is not None:
        chosen = encoder.card_levels[level]
        lines[2] = (
            f"This export is level {level}: tokens after block {chosen.depth} of {encoder.depth}, averaged over cells "
            f"of {chosen.stride}x{chosen.stride} patches and layer-normalised (no weights, eps 1e-5). `tokens` has one "
            "vector per cell, in raster order; `pooled` is their mean."
        )
    rows = [
        f"| {number} | {'pixels' if each.depth == 0 else each.depth} | {each.stride}x{each.stride} patches |"
        for number, each in enumerate(encoder.card_levels)
    ]
    table = "\n".join(["| level | after block | cell |", "|---|---|---|", *rows])
    return "\n".join(lines) + f"\n\nThe levels that were predicted in training:\n\n{table}"


def _training(encoder: FrozenEncoder, record: Mapping[str, Any]) -> str:
    origin = encoder.card["provenance"]
    data = origin.get("data", {})
    rows = [
        ("data", f"{data.get('source', 'unknown')}: {data.get('images', 0):,} images, no labels used"),
        ("data fingerprint", f"`{data.get('fingerprint', 'unknown')}`"),
        ("recipe", f"{origin.get('recipe') or 'none'}, seed {origin.get('seed')}, step {origin.get('step'):,}"),
    ]
    if versions := record.get("versions"):
        rows.append(("versions", ", ".join(f"{name} {number}" for name, number in versions.items())))
    if hardware := record.get("hardware"):
        rows.append(("trained on", f"{hardware.get('gpu') or hardware.get('cpu')}, {record.get('precision')}"))
    if verdict := record.get("verdict"):
        rows.append(("verdict", f"**{verdict['verdict']}**: {verdict['evidence']}"))
    if audit := record.get("audit"):
        rows.append(("audit of the training loop", f"{audit['verdict']} ({audit['steps']} steps)"))
    cells = "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows)
    return f"## Training\n\n| | |\n|---|---|\n{cells}"


def _evaluation(encoder: FrozenEncoder, evaluation: Mapping[str, Any]) -> str:
    results: Sequence[Mapping[str, Any]] = evaluation.get("results", ())
    if not results:
        return (
            "## Evaluation\n\nThis encoder has not been evaluated with labels. `hjepa evaluate RUN --train LABELLED "
            "--test LABELLED` compares it with a randomly initialised encoder and with raw pixels; export it again "
            "afterwards."
        )
    rows = [
        f"| {row.get('labels', 'label')} | {row['protocol']} | {row['pooling']} | {row.get('level', 'last')} "
        f"| {_percent(row['accuracy'], row['interval'])} "
        f"| {_control(row, 'random_init')} | {_control(row, 'raw_pixels')} | {row['n_train']:,} / {row['n_test']:,} |"
        for row in results
    ]
    step = evaluation.get("step")
    older = "" if step == encoder.card["provenance"].get("step") else f" Measured at step {step}, not on these weights."
    head = (
        "| labels | protocol | pooling | level | this encoder | random init | raw pixels | images train / test |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return (
        f"## Evaluation\n\nAccuracy in per cent with 95 % intervals; trained on {_cell(evaluation.get('train', '?'))}, "
        f"tested on {_cell(evaluation.get('test', '?'))}.{older}\n\n{head}\n"
        + "\n".join(rows)
        + f"\n\n{evaluation.get('conclusion', '')}"
    )


def _control(row: Mapping[str, Any], name: str) -> str:
    return _percent(row["controls"][name], row.get("control_intervals", {}).get(name))


def _percent(accuracy: float, interval: Sequence[float] | None) -> str:
    between = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * accuracy:.1f}{between}"


def _fidelity(comparison: Comparison, facts: CardFacts) -> str:
    sizes = ", ".join(f"{height}x{width}" for height, width in comparison.sizes)
    batches = " and ".join(map(str, comparison.batches))
    text = (
        f"## How close this export is\n\nRead back with {comparison.reader} and compared with the encoder of the run, "
        f"in float32 on the CPU, on {facts.images.origin}, in batches of {batches}, at {sizes} pixels: the largest "
        f"absolute difference is **{comparison.largest:.1e}** ({comparison.tokens:.1e} for tokens, "
        f"{comparison.pooled:.1e} for pooled features)."
    )
    if facts.images.why_synthetic:
        text += f" These are not real images, because {facts.images.why_synthetic}."
    if comparison.largest > CLOSE:
        text += f" That is more than {CLOSE:g}: features are large, or sums are taken in another order."
    if (pixels := comparison.pixels) is not None:
        text += (
            "\n\nFrom the image file on, with the preprocessing of that library instead of ours, pixels differ by up "
            f"to {pixels.largest:.4f} (mean {pixels.mean:.5f}; black is 0, white is 1), and pooled features by up to "
            f"{pixels.pooled:.1e} (their standard deviation is {pixels.pooled_scale:.1e})."
        )
    return text


def _licence(licence: str) -> str:
    if licence == "unknown":
        return (
            "## Licence\n\nNone was chosen for these weights (`--license`). Rights in the training images may limit "
            "how they may be used."
        )
    return f"## Licence\n\n{licence}, as chosen by whoever exported these weights."


def _cell(text: object) -> str:
    """Return a text that does not end a cell of a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
