"""An export is there as a whole or not at all, and nobody's own files are touched."""

import json
import os
import signal
import subprocess
import sys

import pytest
from commands import environment, tree

from hjepa.deploy.export.destination import Destination
from hjepa.errors import UserError


def write_export(folder, text: str, *, overwrite: bool = False, name: str = "weights") -> None:
    destination = Destination(folder, overwrite=overwrite)
    (destination.begin() / name).write_text(text)
    destination.publish()
    destination.discard()


def test_nothing_is_there_before_it_is_published_and_nothing_else_afterwards(tmp_path):
    out = tmp_path / "new" / "export"
    destination = Destination(out, overwrite=False)
    (destination.begin() / "weights").write_text("1")
    assert not out.exists()
    destination.publish()
    destination.discard()
    assert [one.name for one in out.parent.iterdir()] == ["export"]
    assert sorted(tree(out)) == ["export.json", "weights"]
    assert list(json.loads((out / "export.json").read_text())["files"]) == ["weights"]


def test_an_empty_folder_is_used_and_a_discarded_export_leaves_it_empty(tmp_path):
    (tmp_path / "out").mkdir()
    destination = Destination(tmp_path / "out", overwrite=False)
    (destination.begin() / "weights").write_text("1")
    destination.discard()
    assert [one.name for one in tmp_path.iterdir()] == ["out"] and list((tmp_path / "out").iterdir()) == []
    write_export(tmp_path / "out", "2")
    assert (tmp_path / "out/weights").read_text() == "2"


def test_an_earlier_export_is_replaced_only_if_asked_and_as_a_whole(tmp_path):
    write_export(tmp_path / "out", "1", name="old")
    with pytest.raises(UserError, match=r"--out .*out: not empty; replace that export with --overwrite, or"):
        Destination(tmp_path / "out", overwrite=False)
    write_export(tmp_path / "out", "2", overwrite=True)
    assert sorted(tree(tmp_path)) == ["out/export.json", "out/weights"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda out: (out / "notes.txt").write_text("mine"),
            r"notes\.txt does not come from the export.*move that file",
        ),
        (lambda out: (out / "weights").write_text("tuned"), r"weights was changed after the export.*move that file"),
        (lambda out: (out / "link").symlink_to("weights"), r"link does not come from the export"),
        (lambda out: ((out / "sub").mkdir(), (out / "sub/x").write_text("x")), r"sub/x does not come from the export"),
        (lambda out: (out / "export.json").write_text("{}"), r"not empty, and not an export of hjepa; choose another"),
    ],
)
def test_files_of_the_user_are_never_replaced(tmp_path, spoil, message):
    write_export(tmp_path / "out", "1")
    spoil(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        write_export(tmp_path / "out", "2", overwrite=True)
    assert tree(tmp_path) == before


def test_a_file_that_appears_while_the_export_is_written_is_kept(tmp_path):
    write_export(tmp_path / "out", "1")
    destination = Destination(tmp_path / "out", overwrite=True)
    (destination.begin() / "weights").write_text("2")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt does not come from the export"):
        destination.publish()
    destination.discard()
    assert sorted(tree(tmp_path)) == ["out/export.json", "out/notes.txt", "out/weights"]
    assert (tmp_path / "out/weights").read_text() == "1"


def test_places_that_are_no_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"--out .*file: this is a file, choose a folder"):
        Destination(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match=r"--out .*below: .*file is not a writable folder"):
        Destination(tmp_path / "file" / "below", overwrite=False)


KILLED = """
import sys, time
from pathlib import Path
from hjepa.deploy.export.destination import Destination
destination = Destination(Path(sys.argv[1]), overwrite=False)
(destination.begin() / "weights").write_text("half")
print("begun", flush=True)
time.sleep(60)
"""


def test_a_killed_export_leaves_no_half_folder_and_the_next_one_clears_up(tmp_path):
    out = tmp_path / "out [1]"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    beside = [one.name for one in tmp_path.iterdir()]
    assert beside == [f".out [1].{process.pid}.export"]
    # Another export to the same place does not touch what a living process writes.
    write_export(tmp_path / "other", "1")
    first = Destination(out, overwrite=False)
    first.begin()
    first.discard()
    assert (tmp_path / beside[0]).is_dir()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    (tmp_path / ".out [1].mine.export").mkdir()  # no number of a process: not ours
    write_export(out, "whole")
    assert (out / "weights").read_text() == "whole"
    assert not (tmp_path / beside[0]).exists() and (tmp_path / ".out [1].mine.export").is_dir()


def test_what_was_set_aside_is_restored_if_renaming_fails(tmp_path):
    write_export(tmp_path / "out", "1")
    destination = Destination(tmp_path / "out", overwrite=True)
    (destination.begin() / "weights").write_text("2")
    destination.folder.rename(destination._replaced)  # as far as publish got before a disk failed
    destination.discard()
    assert sorted(tree(tmp_path)) == ["out/export.json", "out/weights"]
    assert (tmp_path / "out/weights").read_text() == "1"
