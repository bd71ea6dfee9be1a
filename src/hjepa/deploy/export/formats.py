"""The formats by name, and which of them ``--to`` asks for."""

from difflib import get_close_matches

from hjepa.deploy.export.export_format import ExportFormat
from hjepa.deploy.export.onnx_file import OnnxFile
from hjepa.deploy.export.safetensors_file import SafetensorsFile
from hjepa.deploy.export.timm_folder import TimmFolder
from hjepa.deploy.export.torch_program import TorchProgram
from hjepa.deploy.export.transformers_folder import TransformersFolder
from hjepa.errors import UserError
from hjepa.models.frozen import FrozenEncoder

FORMATS: dict[str, ExportFormat] = {
    each.name: each for each in (TimmFolder(), TransformersFolder(), OnnxFile(), TorchProgram(), SafetensorsFile())
}


def formats_named(names: list[str]) -> list[ExportFormat]:
    """Return the formats with these names, each once; raises UserError for an unknown one or a missing package."""
    for name in names:
        if name not in FORMATS:
            near = get_close_matches(name, FORMATS, n=1)
            hint = f"did you mean {near[0]}? The formats are" if near else "choose from"
            raise UserError(f"--to {name}: unknown format; {hint} {', '.join(FORMATS)}")
    if not names:
        raise UserError(f"--to: names no format; choose from {', '.join(FORMATS)}")
    chosen = [FORMATS[name] for name in dict.fromkeys(names)]
    for each in chosen:
        each.refuse_missing_packages()
    return chosen


def level_number(encoder: FrozenEncoder, level: str, formats: list[ExportFormat]) -> int | None:
    """Return the number of the level that ``--level`` asks for, None for ``last``.

    Raises UserError for a level that the encoder does not have or that cannot be exported to one of these formats.
    """
    if level == "last":
        return None
    names = {str(number): each for number, each in enumerate(encoder.card_levels)}
    if level not in names:
        known = ", ".join(f"{number} ({each})" for number, each in names.items())
        raise UserError(f"--level {level}: the levels of this encoder are {known}; choose one of them, or last")
    if names[level].depth == 0:
        raise UserError(f"--level {level}: this level is computed from pixels without weights; choose another level")
    for each in formats:
        if not each.has_levels:
            raise UserError(
                f"--level {level}: --to {each.name} holds the whole network, all levels included; omit --level, or use "
                "--to onnx or --to torch for a single level"
            )
    return int(level)
