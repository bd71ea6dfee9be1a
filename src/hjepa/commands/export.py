"""``hjepa export``: the encoder of a run in the formats of other libraries, read back by them and compared."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.errors import UserError
from hjepa.files import shown, write_json, write_text
from hjepa.models.frozen import FrozenEncoder, load_frozen
from hjepa.runs.folder import RunFolder
from hjepa.runs.run import Run

if TYPE_CHECKING:
    from hjepa.deploy.export.check_images import CheckImages
    from hjepa.deploy.export.comparison import Comparison
    from hjepa.deploy.export.destination import Destination
    from hjepa.deploy.export.export_format import ExportFormat

CARD, PREPROCESSING = "README.md", "encoder.json"


@dataclass(frozen=True)
class Exported:
    """One export: its format, its folder with the files in it, and how close it is."""

    to: str
    folder: Path
    files: list[str]
    comparison: "Comparison"

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of one entry of ``hjepa export --json``."""
        return {"to": self.to, "folder": str(self.folder), "files": self.files, **self.comparison.to_json()}


@dataclass(frozen=True)
class Exports:
    """All exports of one call, and the images they were compared on."""

    exports: list[Exported]
    images: str
    images_from: str  # given, run or synthetic

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa export --json``."""
        return {
            "exports": [each.to_json() for each in self.exports],
            "images": {"from": self.images_from, "what": self.images},
        }


def export(
    run: Run | str | os.PathLike[str],
    *,
    to: str | Sequence[str],
    out: str | os.PathLike[str],
    images: Any = None,
    level: str | int = "last",
    license: str = "unknown",
    overwrite: bool = False,
    command: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Exports:
    """Write the target encoder of a run in other formats; read each back with its library and compare the features.

    ``to`` is a list of names, or one comma-separated string: timm, transformers, onnx, torch, safetensors. With one
    format ``out`` is its folder, with several it has one subfolder each. ``images`` is DATA to compare on; by default
    it is the run's own, or else synthetic scenes. ``level`` is ``last`` or the number of a level (onnx, torch).
    ``license`` is the identifier that the model card gives. Everything is written beside its place and renamed once all
    formats are complete and compared, so an error leaves nothing behind. Raises UserError in one line.
    """
    from hjepa.deploy.export.check_images import choose_images
    from hjepa.deploy.export.destination import Destination
    from hjepa.deploy.export.formats import formats_named, level_number

    _refuse_licence(license)
    names = to.split(",") if isinstance(to, str) else list(to)
    formats = formats_named([name.strip() for name in names if name.strip()])
    path, out = run.path if isinstance(run, Run) else Path(run).expanduser(), Path(out)
    _refuse_file_name(out)
    places = {each.name: out if len(formats) == 1 else out / each.name for each in formats}
    destinations = {name: Destination(place, overwrite=overwrite) for name, place in places.items()}
    encoder = load_frozen(path)
    number = level_number(encoder, str(level), formats)
    record, evaluation = _json_of(RunFolder(path).record), _json_of(RunFolder(path).evaluation)
    chosen = choose_images(encoder, record, images)
    say = progress or (lambda line: None)
    hint = f", because {chosen.why_synthetic}; pass real images with --images DATA" if chosen.why_synthetic else ""
    say(f"comparing on {chosen.origin}{hint}")
    writer = _Writer(
        encoder, number, chosen, record, evaluation, _title(path), license, command or _as_call(path, to, out)
    )
    done = []
    try:
        for each in formats:
            say(f"{each.name}: writing, and reading it back")
            done.append(writer.write(each, destinations[each.name], places[each.name]))
        for destination in destinations.values():
            destination.publish()
    finally:
        for destination in destinations.values():
            destination.discard()
        _remove_if_empty(out, [*places.values()])
    return Exports(done, chosen.origin, chosen.kind)


@dataclass(frozen=True)
class _Writer:
    """What all exports of one call share."""

    encoder: FrozenEncoder
    level: int | None
    images: "CheckImages"
    record: dict[str, Any]
    evaluation: dict[str, Any]
    title: str
    licence: str
    command: str

    def write(self, each: "ExportFormat", destination: "Destination", place: Path) -> Exported:
        """Write one format beside its place, compare it, and describe it in its model card."""
        from hjepa.deploy.export.comparison import compare
        from hjepa.deploy.export.model_card import CardFacts, model_card

        folder = destination.begin()
        each.write(self.encoder, folder, self.level)
        write_json(folder / PREPROCESSING, self.encoder.card)
        comparison = compare(each, each.reload(folder, self.encoder), self.encoder, self.images, self.level)
        facts = CardFacts(self.title, self.licence, self.command, self.images, self.record, self.evaluation)
        write_text(folder / CARD, model_card(each, self.encoder, self.level, comparison, facts))
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        return Exported(each.name, place, files, comparison)


def _refuse_licence(licence: str) -> None:
    """Raise UserError for what would not be one plain word in the header of a model card."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(
            f"--license {licence}: expected an identifier of the hub, such as apache-2.0, cc-by-4.0 or other"
        )


def _refuse_file_name(out: Path) -> None:
    """Raise UserError if the name of a file is given: an export has a model card beside it."""
    if out.suffix in (".onnx", ".pt2", ".safetensors", ".pt", ".pth"):
        raise UserError(
            f"--out {shown(out)}: an export is a folder with a model card; use --out {shown(out.with_suffix(''))}"
        )


def _json_of(file: Path) -> dict[str, Any]:
    """Return a JSON file of the run; empty if there is none, because an encoder can be exported without its run."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        raise UserError(f"{shown(file)} is damaged: restore it from a copy, or move it away") from None
    return found if isinstance(found, dict) else {}


def _title(path: Path) -> str:
    return shown(path.resolve().name).replace("\n", " ")


def _as_call(path: Path, to: str | Sequence[str], out: Path) -> str:
    return f"hjepa.export({str(path)!r}, to={to!r}, out={str(out)!r})"


def _remove_if_empty(out: Path, places: list[Path]) -> None:
    """Remove the folder of several exports if none of them was published."""
    if places != [out] and out.is_dir() and not any(out.iterdir()):
        shutil.rmtree(out)
