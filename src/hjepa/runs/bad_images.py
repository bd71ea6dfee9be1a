"""A run and its unreadable images: named as they are met, listed in run.json, known again at a resume."""

from collections.abc import Mapping, Sequence
from typing import Any

from hjepa.data.bad_images import BadImage, BadImages
from hjepa.data.file_facts import FactTable, FileFacts
from hjepa.data.sources import DiskSource, ImageSource

NAMED = 20  # so many are named on the terminal; all of them are listed in run.json


class BadImageRecord:
    """Keeps the list in run.json, and returns what to say of new ones."""

    def __init__(self, record: dict[str, Any], source: ImageSource, bad: BadImages) -> None:
        self.record, self.source, self.bad = record, source, bad
        self.listed = {file["number"]: file for file in _listed(record)}
        self.seen = 0

    def update(self) -> list[str]:
        """List the images that are new in run.json; return a notice for each that has not been named."""
        new, self.seen = self.bad.since(self.seen), len(self.bad)
        unnamed = [image for image in new if image.number not in self.listed]
        named_before = len(self.listed)
        for image in unnamed:
            self.listed[image.number] = {**image._asdict(), **_file_facts(self.source, image.number)}
        if unnamed:
            self.record["bad_images"] = {
                "count": len(self.listed),
                "of": len(self.source),
                "files": list(self.listed.values()),
            }
        said = [f"{image}, so another image takes its place" for image in unnamed[: max(0, NAMED - named_before)]]
        if named_before < NAMED < len(self.listed):
            said.append(f"more than {NAMED} images cannot be read: the others are listed in run.json only")
        return said

    def summary(self) -> list[str]:
        """Return what to say at the end: otherwise the folder would pass for a clean one."""
        if not self.listed:
            return []
        count, first = len(self.listed), next(iter(self.listed.values()))
        return [
            f"{count:,} of {len(self.source):,} images could not be read and were replaced by others "
            f"(first: {first['name']}); run.json lists {'it' if count == 1 else 'them'}"
        ]


def restore_places(source: ImageSource, record: Mapping[str, Any]) -> None:
    """Give files that a run could not read their places back, if they have been removed since.

    So the order of all other images stays as it was. What a bad file was is taken from the record: whether it has been
    removed or replaced by a readable one, the images that were trained on are the same.
    """
    if not isinstance(source, DiskSource):
        return
    of_files = [file for file in _listed(record) if "path" in file]
    for file in sorted(of_files, key=lambda file: int(file["number"])):
        index, path = int(file["number"]), str(file["path"])
        if index >= len(source.paths) or source.seen_from_root(source.paths[index]) != path:
            source.paths.insert(index, source.root / path)
            source.removed.add(index)
        source.facts_before[source.paths[index]] = FileFacts(int(file["size"]), str(file["content"]))


def still_bad(source: ImageSource, bad: Sequence[BadImage]) -> list[BadImage]:
    """Return the images that are as a run met them: files that have been replaced since are not counted any more."""
    if not isinstance(source, DiskSource):
        return list(bad)
    now = dict(zip(source.facts_before, FactTable.of(source.facts_before, {}), strict=True))
    replaced = {path for path, facts in source.facts_before.items() if now[path].size >= 0 and now[path] != facts}
    return [image for image in bad if source.paths[image.number] not in replaced]


def _listed(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(record.get("bad_images", {}).get("files", []))


def _file_facts(source: ImageSource, index: int) -> dict[str, Any]:
    """Return where a file lies and what it was when the run began; nothing for images that are no files."""
    if not isinstance(source, DiskSource) or not len(source.facts):
        return {}
    return {"path": source.seen_from_root(source.paths[index]), **source.facts[index]._asdict()}
