"""``hjepa check``: what is in DATA, what will be done with each kind of image, and what is wrong."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.commands.given import DEFAULT_RECIPE, given_layers
from hjepa.config import Resolved, resolve
from hjepa.data.bad_images import BadImages
from hjepa.data.duplicates import exact_groups, near_groups
from hjepa.data.preflight import Kind, Preflight, channel_statistics, look_at_all
from hjepa.data.sources import FileSource, ImageSource, image_name, open_unread
from hjepa.data.survey import Survey
from hjepa.errors import UserError
from hjepa.files import refuse_other_file, shown, write_text
from hjepa.setup.image_sizes import with_sizes

LIST_COLUMNS = ("path", "problem", "detail")
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev"})
FAR_TOO_SMALL = 0.5  # of the size of the encoder's input: enlarged more than twice
LONG = 4.0  # longer side over shorter side: a central crop loses three quarters


@dataclass(frozen=True)
class Finding:
    """Images of which the user should know."""

    problem: str  # a word or two, as in --list
    text: str  # what it is, and what a run does with them
    wrong: bool  # counts for --strict
    images: dict[int, str] = field(default_factory=dict)  # index -> detail; none if it concerns all


@dataclass(frozen=True)
class Check:
    """What ``hjepa check`` found in DATA."""

    source: ImageSource
    found: Preflight
    findings: list[Finding]
    kinds: list[tuple[int, Kind, str]]  # number of images, and what is done with them; the most frequent first
    resolved: Resolved | None  # with the sizes that a run would choose; None if it would refuse the images
    channels: int | None
    statistics: dict[str, Any]
    classes: dict[str, int]
    notices: list[str]

    @property
    def wrong(self) -> bool:
        """Return whether anything should be put right before training."""
        return any(finding.wrong for finding in self.findings)

    def name(self, index: int) -> str:
        """Return the path of an image, or its number."""
        return image_name(self.source, index)

    def affected(self) -> str:
        """Return a table of all images with a finding: path, problem and detail, as .csv."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(LIST_COLUMNS)
        for finding in self.findings:
            for index, detail in finding.images.items():
                path: object = self.name(index)
                if isinstance(self.source, FileSource) and isinstance(file := self.source.paths[index], Path):
                    path = shown(file.absolute())
                table.writerow((path, finding.problem, detail))
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa check --json``."""
        rows = self.found.rows[self.found.readable]
        config = self.resolved.config if self.resolved else None
        return {
            "source": self.source.name,
            "images": len(self.source),
            "bytes": int(self.found.rows["bytes"].sum()),
            "wrong": self.wrong,
            "kinds": [kind._asdict() | {"images": count, "treatment": text} for count, kind, text in self.kinds],
            "width": quartiles(rows["width"]),
            "height": quartiles(rows["height"]),
            "aspect_ratio": quartiles(aspect_ratios(rows), digits=3),
            "oriented": int((rows["orientation"] > 1).sum()),
            "of_several_pages": int((rows["pages"] > 1).sum()),
            "classes": self.classes,
            "statistics": self.statistics,
            "run": None
            if config is None or self.resolved is None
            else {
                "image_size": config.data.image_size,
                "patch_size": config.model.patch_size,
                "channels": self.channels,
                "reasons": {name: self.resolved.origin[name] for name in ("data.image_size", "model.patch_size")},
            },
            "findings": [
                {
                    "problem": finding.problem,
                    "wrong": finding.wrong,
                    "images": len(finding.images),
                    "text": finding.text,
                    "examples": [self.name(index) for index in list(finding.images)[:5]],
                }
                for finding in self.findings
            ],
            "notices": self.notices,
        }


def check(
    data: Any,
    /,
    *,
    recipe: str | None = None,
    options: Sequence[str] = (),
    list_file: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    **settings: Mapping[str, Any],
) -> Check:
    """Look at every image of DATA once, and report what a run would do with it.

    ``progress`` is called with the numbers of images seen and in all. ``list_file`` is written as a .csv table of the
    images with findings. Settings are those of ``pretrain``. Raises UserError in one line.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1")
    if list_file is not None and not list_file.absolute().parent.is_dir():
        raise UserError(f"--list {list_file}: the folder {list_file.parent} does not exist; create it first")
    if list_file is not None:
        refuse_other_file("--list", list_file, ",".join(LIST_COLUMNS), "hjepa check")
    # Which recipe a run would choose depends on the device, and to ask for it takes torch; what is read here does not.
    resolved = resolve(given_layers(recipe or DEFAULT_RECIPE, None, None, options, settings))
    wanted = resolved.config.data.channels
    source = open_unread(data, wanted, resolved.config.data.pages)
    total = len(source)
    found = look_at_all(source, channels=wanted, workers=workers, progress=lambda done: progress(done, total))
    channels, findings = _channels(source, found, wanted)
    chosen = None
    if channels is not None:
        try:
            chosen = with_sizes(resolved, source, BadImages(total, max_bad=1.0))
        except UserError as error:
            findings.append(Finding("sizes", str(error), wrong=True))
    findings = [*_unreadable(source, found), *findings]
    if chosen is not None:
        findings += _too_small(found, min(chosen.config.image_size))
    classes = _classes(source)
    findings += [*_copies(source, found), *_alike(found), *_shapes(found), *_split_folders(source, classes)]
    done = Check(
        source=source,
        found=found,
        findings=findings,
        kinds=_kinds(found, channels, wanted),
        resolved=chosen,
        channels=channels,
        statistics=_statistics(found, channels),
        classes=classes,
        notices=source.notices() if isinstance(source, FileSource) and channels is not None else [],
    )
    if list_file is not None:
        write_text(list_file, done.affected())
    return done


def quartiles(values: np.ndarray, digits: int = 0) -> dict[str, float]:
    """Return minimum, median and maximum; empty for no values."""
    if not len(values):
        return {}
    three = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: round(float(value), digits) if digits else int(value) for name, value in three.items()}


def aspect_ratios(rows: np.ndarray) -> np.ndarray:
    """Return width over height."""
    return np.asarray(rows["width"] / np.maximum(rows["height"], 1))


def _channels(source: ImageSource, found: Preflight, wanted: int | None) -> tuple[int | None, list[Finding]]:
    """Return the channels a run would have, from the headers that were read; None if the images cannot be mixed."""
    if not isinstance(source, FileSource):
        return wanted or source.channels, []
    source.survey = Survey(found.headers)
    try:
        return source.channels, []
    except UserError as error:
        return None, [Finding("mixed bands", str(error), wrong=True)]


def _kinds(found: Preflight, channels: int | None, wanted: int | None) -> list[tuple[int, Kind, str]]:
    counts = np.bincount(found.rows["kind"][found.readable], minlength=len(found.kinds))
    listed = [(int(counts[n]), kind, treatment(kind, channels, wanted)) for n, kind in enumerate(found.kinds)]
    return sorted(listed, key=lambda each: -each[0])


def treatment(kind: Kind, channels: int | None, wanted: int | None) -> str:
    """Return what a run does with images of a kind."""
    said = []
    if kind.alpha:
        said.append("fourth band kept" if wanted == 4 else "transparency composited on white")
    elif kind.mode == "P":
        said.append("palette converted to colour")
    elif kind.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        said.append(f"{kind.mode} converted to RGB")
    elif kind.mode == "1":
        said.append("black and white as 0 and 255")
    if kind.bits > 8 and kind.mode not in ("RGB", "RGBA", "LA"):
        said.append("one value range for the dataset (data.value_range)")
    elif kind.bits > 8:
        said.append("read as 8 bits")
    colours = 1 if kind.mode in ("1", "L", "LA") or (kind.bands == 1 and kind.mode != "P") else max(kind.bands, 3)
    if channels is not None and colours == 1 and channels > 1:
        said.append(f"grey repeated in {channels} channels")
    elif channels == 1 and colours > 1:
        said.append("colour converted to grey")
    elif channels == 3 and colours == 4 and not kind.alpha and kind.mode != "CMYK":
        said.append("fourth band left out")
    return ", ".join(said) or "used as it is"


def _finding(problem: str, text: str, images: dict[int, str], *, wrong: bool) -> list[Finding]:
    """Return a finding if it concerns any image."""
    return [Finding(problem, text, wrong, images)] if images else []


def _unreadable(source: ImageSource, found: Preflight) -> list[Finding]:
    damaged: dict[int, str] = {}
    missing: dict[int, str] = {}
    for index, error in sorted(found.errors.items()):
        why = error.removeprefix(f"{image_name(source, index)}: ").removesuffix("; exclude or replace it")
        (missing if "pip install" in why else damaged)[index] = why
    text = "damaged, truncated or not an image: a run replaces them by others, and stops if they exceed --data.max_bad"
    return [
        *_finding("unreadable", text, damaged, wrong=True),
        *_finding("reader missing", "readable with another package only", missing, wrong=True),
    ]


def _too_small(found: Preflight, size: int) -> list[Finding]:
    rows = found.rows
    small = found.readable & (np.minimum(rows["width"], rows["height"]) < FAR_TOO_SMALL * size)
    text = f"far smaller than the encoder's input of {size} pixels, enlarged more than twice"
    return _finding("too small", text, _sizes(found, small), wrong=True)


def _copies(source: ImageSource, found: Preflight) -> list[Finding]:
    groups = exact_groups(found.rows["digest"], found.rows["bytes"] > 0)
    images = {int(i): f"same as {image_name(source, int(group[0]))}" for group in groups for i in group[1:]}
    text = "identical to an earlier one, so it counts twice"
    numbers = source.labels.get("label")
    if numbers is not None and (crossing := sum(len(set(numbers[group].tolist())) > 1 for group in groups)):
        text += f"; {crossing:,} of these pairs or groups have different labels"
    return _finding("identical", text, images, wrong=True)


def _alike(found: Preflight) -> list[Finding]:
    digests = found.rows["digest"]
    first = np.zeros(len(digests), dtype=bool)
    words = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
    first[np.unique(words, axis=0, return_index=True)[1]] = True  # identical ones are reported already
    groups = near_groups(found.rows["thumbnail"], found.readable & first)
    images = {int(i): f"group {n}" for n, group in enumerate(groups, start=1) for i in group}
    text = (
        f"alike in {len(groups):,} {'group' if len(groups) == 1 else 'groups'}: resized, re-encoded, or of one series"
    )
    return _finding("alike", text, images, wrong=False)


def _shapes(found: Preflight) -> list[Finding]:
    rows, readable = found.rows, found.readable
    ratio = aspect_ratios(rows)
    long = readable & (np.maximum(ratio, 1 / np.maximum(ratio, 1e-9)) > LONG)
    several = np.flatnonzero(readable & (rows["pages"] > 1)).tolist()
    blank = np.flatnonzero(readable & (rows["thumbnail"].max((1, 2)) == rows["thumbnail"].min((1, 2)))).tolist()
    long_text = f"longer than {LONG:g} times the shorter side: a crop shows little of it"
    pages_text = "of several pages or frames, of which the first is used: --data.pages all makes each of them an image"
    pages = {index: f"{rows['pages'][index]} pages" for index in several}
    return [
        *_finding("long", long_text, _sizes(found, long), wrong=False),
        *_finding("several pages", pages_text, pages, wrong=False),
        *_finding("blank", "of a single shade: nothing can be learned from it", dict.fromkeys(blank, ""), wrong=False),
    ]


def _sizes(found: Preflight, chosen: np.ndarray) -> dict[int, str]:
    rows = found.rows
    return {index: f"{rows['width'][index]}x{rows['height'][index]}" for index in np.flatnonzero(chosen).tolist()}


def _split_folders(source: ImageSource, classes: Mapping[str, int]) -> list[Finding]:
    splits = [name for name in classes if name.lower() in SPLITS]
    if not splits or not isinstance(source, FileSource):
        return []
    return [
        Finding(
            "split folders",
            f"the folders {', '.join(splits)} look like splits, not like classes: a run would train on all of them; "
            f"pass the one to train on, such as {source.name}/{splits[-1]}",
            wrong=True,
        )
    ]


def _classes(source: ImageSource) -> dict[str, int]:
    numbers = source.labels.get("label")
    if numbers is None:
        return {}
    names: list[str] = getattr(source, "classes", [])
    counts = Counter(numbers.tolist())
    return {names[n] if n < len(names) else str(n): counts[n] for n in sorted(counts)}


def _statistics(found: Preflight, channels: int | None) -> dict[str, Any]:
    """Return mean and standard deviation per channel; of images of more than 8 bits in their own values."""
    said: dict[str, Any] = {}
    if channels is not None and (measured := channel_statistics(found, channels)) is not None:
        said |= {"mean": measured[0], "std": measured[1]}
    deep = [moments for (_, is_deep), moments in found.moments.items() if is_deep]
    if deep:
        said["values"] = {"min": min(each.low for each in deep), "max": max(each.high for each in deep)}
    return said
