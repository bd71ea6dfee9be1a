"""Where the vectors go: a new file, one that is continued, one that is complete, or one that is refused."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.deploy.embed.formats import OutputFormat, format_of
from hjepa.deploy.embed.plan import Plan, refuse_other_plan
from hjepa.deploy.embed.sidecar import beside, read_sidecar, working_folder
from hjepa.deploy.embed.store import Store
from hjepa.errors import UserError
from hjepa.files import shown


@dataclass(frozen=True)
class Output:
    """The file that this process writes."""

    given: Path  # as the user named it
    file: Path  # that, or a part file in the folder of that name
    form: OutputFormat

    def known_metadata(self) -> dict[str, Any] | None:
        """Return the metadata of what is there, finished or not; raises UserError if it is not ours."""
        known = self.form.known_metadata(self.file) if self.file.exists() else None
        known = known or read_sidecar(self.form.store_paths(self.file).metadata)
        if known is None and self.file.exists():
            raise UserError(f"--out {shown(self.file)}: exists, and hjepa embed did not write it; name another file")
        return None if known is not None and known["complete"] and not self.file.exists() else known

    def prepare(self, plan: Plan, *, overwrite: bool) -> bool:
        """Return whether the file is there already; raises UserError if something else is, unless ``overwrite``."""
        known = self.known_metadata()
        if known is None:
            self._remove()  # what is left of a file that was moved away
            return False
        try:
            refuse_other_plan(shown(self.given), known, plan)
        except UserError:
            if not overwrite:
                raise
            self._remove()
            return False
        if known["complete"] and overwrite:
            self._remove()
            return False
        if known["complete"]:
            shutil.rmtree(working_folder(self.file), ignore_errors=True)
        return bool(known["complete"])

    def store(self, plan: Plan) -> Store:
        """Return the store in which the vectors grow."""
        return Store(self.form.store_paths(self.file), plan)

    def _remove(self) -> None:
        """Remove an earlier embedding of ours, or what is left of it."""
        shutil.rmtree(working_folder(self.file), ignore_errors=True)
        for path in (self.file, beside(self.file, "json"), beside(self.file, "rows.csv")):
            path.unlink(missing_ok=True)


def choose_output(out: str | os.PathLike[str], rank: int, world_size: int) -> Output:
    """Return the file of this process: ``out`` itself, or with several processes a part in the folder ``out``."""
    given = Path(out).expanduser()
    form = format_of(given)
    if world_size == 1:
        if given.is_dir():
            raise UserError(
                f"--out {shown(given)}: this is a folder; name a file, or launch as many processes as wrote it"
            )
        return Output(given, given, form)
    if given.is_file():
        raise UserError(f"--out {shown(given)}: this is a file; {world_size} processes write parts into a new folder")
    given.mkdir(parents=True, exist_ok=True)
    ours = f"part-*-of-{world_size:05}{given.suffix}"
    for path in sorted(given.iterdir()):
        if path.name.startswith("part-") and not path.match(ours) and path.suffix == given.suffix:
            raise UserError(
                f"--out {shown(given)}: holds {path.name}, of another number of processes than {world_size}; "
                "launch as many, or name another folder"
            )
    return Output(given, given / f"part-{rank:05}-of-{world_size:05}{given.suffix}", form)


def agreed_by_all(folder: Path, name: str, choice: str) -> str:
    """Return the choice of the first process that made one; the processes share only the folder, which may be remote.

    A choice that is measured, such as the precision, may come out differently in each of them.
    """
    path, own = folder / f".{name}.json", folder / f".{name}.{os.getpid()}.{os.uname().nodename}.tmp"
    own.write_text(json.dumps(choice))
    try:
        os.link(own, path)  # fails if it exists, whoever is faster
    except FileExistsError:
        pass
    finally:
        own.unlink()
    return str(json.loads(path.read_text()))
