"""Where an export is written: beside its place, and renamed when it is complete and checked."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from hjepa.errors import UserError
from hjepa.files import flush_to_disk, shown, write_json

MANIFEST = "export.json"  # lists what the export wrote, so that only that is ever replaced


class Destination:
    """The folder of one export. Nothing is there before ``publish``, and ``discard`` leaves nothing behind."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.shown = shown(folder)
        self.folder = folder.expanduser().resolve()
        self.beside = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.export")
        self._replaced = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.replaced")
        self.refuse_if_occupied(overwrite=overwrite)
        self.overwrite = overwrite

    def refuse_if_occupied(self, *, overwrite: bool) -> None:
        """Raise UserError if the folder holds anything but an export, unchanged, that may be overwritten."""
        folder = self.folder
        if folder.is_file():
            raise UserError(f"--out {self.shown}: this is a file, choose a folder")
        parent = next(each for each in (folder, *folder.parents) if each.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"--out {self.shown}: {shown(parent)} is not a writable folder, choose another one")
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        written = _written(folder)
        if written is None:
            raise UserError(f"--out {self.shown}: not empty, and not an export of hjepa; choose another folder")
        if not overwrite:
            raise UserError(
                f"--out {self.shown}: not empty; replace that export with --overwrite, or choose another folder"
            )
        for file in sorted(each for each in folder.rglob("*") if each.is_symlink() or not each.is_dir()):
            name = str(file.relative_to(folder))
            if name != MANIFEST and written.get(name) != _digest(file):
                how = "was changed after" if name in written else "does not come from"
                raise UserError(
                    f"--out {self.shown}: {shown(name)} {how} the export, and --overwrite replaces only what an "
                    "export wrote; move that file, or choose another folder"
                )

    def begin(self) -> Path:
        """Return an empty folder beside the destination, and clear what exports that were killed left there."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for left in self.folder.parent.glob(f".{_escaped(self.folder.name)}.*.export"):
            if not _alive(left.name.split(".")[-2]):
                shutil.rmtree(left)
        self.beside.mkdir()
        return self.beside

    def publish(self) -> None:
        """List what was written, and put it in its place, instead of the old export if there is one."""
        files = [each for each in self.beside.rglob("*") if each.is_file()]
        for file in files:
            flush_to_disk(file)
        digests = {str(file.relative_to(self.beside)): _digest(file) for file in sorted(files)}
        write_json(self.beside / MANIFEST, {"format": 1, "files": digests})
        self.refuse_if_occupied(overwrite=self.overwrite)  # again: seconds have passed since the first look
        if self.folder.is_dir() and any(self.folder.iterdir()):
            self.folder.rename(self._replaced)
        self.beside.rename(self.folder)  # an empty folder is replaced by the system itself
        if self._replaced.exists():
            shutil.rmtree(self._replaced)

    def discard(self) -> None:
        """Remove what was not published."""
        if self._replaced.exists() and not self.folder.exists():
            self._replaced.rename(self.folder)
        shutil.rmtree(self.beside, ignore_errors=True)


def _written(folder: Path) -> dict[str, str] | None:
    """Return the files that an export wrote into a folder, with their digests; None if it is not an export."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(file: Path) -> str:
    if file.is_symlink() or not file.is_file():
        return ""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _alive(number: str) -> bool:
    """Return whether a process runs; what is no number is none of ours and is left alone."""
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True


def _escaped(name: str) -> str:
    """Return a file name as a pattern of ``glob`` that means just this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
