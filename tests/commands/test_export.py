"""``hjepa export`` as a user meets it: what it prints, its JSON, its exit codes, and what it leaves on the disk."""

import json

import pytest
from commands import call, hjepa, tree
from conftest import TINY
from PIL import Image
from runs import pictures

import hjepa as library
from hjepa.deploy.export.timm_folder import TimmFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("export")
    (home / "photos").mkdir()
    images = pictures(10)
    for number in range(len(images)):
        Image.fromarray(images[number]).save(home / f"photos/{number}.png")
    sections = {name: dict(values) for name, values in TINY.items()}
    sections["train"]["length"] = 2
    return library.pretrain(home / "photos", out=home / "run", **sections).path


def test_it_prints_the_largest_difference_and_what_it_compared_on(run, tmp_path):
    done = call("export", run, "--to", "timm,safetensors", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"comparing on 8 of the run's own images ({run.parent / 'photos'})"
    [row] = [line for line in lines if line.startswith("timm  ")]
    assert row.split()[1] == str(tmp_path / "out/timm") and float(row.split()[-1]) < 1e-5
    assert "timm: with its own preprocessing of image files, pixels differ by up to 0.0000 of 1" in done.stdout
    assert sorted(tree(tmp_path)) == sorted(
        f"out/{name}"
        for name in (
            *(
                f"timm/{file}"
                for file in ("README.md", "config.json", "encoder.json", "export.json", "model.safetensors")
            ),
            *(f"safetensors/{file}" for file in ("README.md", "encoder.json", "encoder.safetensors", "export.json")),
        )
    )


@pytest.mark.slow
def test_json_is_all_that_standard_output_gets(run, tmp_path):
    done = hjepa("export", run, "--to", "safetensors", "--out", tmp_path / "out", "--images", "scenes", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] == {"from": "given", "what": "8 images of scenes:train (--images)"}
    [one] = result["exports"]
    assert one["to"] == "safetensors" and one["folder"] == str(tmp_path / "out")
    assert one["files"] == ["README.md", "encoder.json", "encoder.safetensors"]
    assert one["largest_difference"] == max(one["tokens"], one["pooled"]) < 1e-5
    assert one["sizes"] == [[16, 16]] and one["pixels"] is None
    assert f"hjepa export {run} --to safetensors" in (tmp_path / "out/README.md").read_text()


def test_refusals_are_one_line_with_exit_code_2_and_touch_nothing(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    before = tree(tmp_path)
    for words, message in (
        (("--to", "pytorch", "--out", tmp_path / "out"), "--to pytorch: unknown format"),
        (("--to", "timm", "--out", tmp_path / "mine"), "not empty, and not an export of hjepa"),
        (("--to", "timm", "--out", tmp_path / "mine", "--overwrite"), "not empty, and not an export of hjepa"),
        (("--to", "timm,torch", "--out", tmp_path / "o", "--level", "0"), "--to timm holds the whole network"),
        (("--to", "timm", "--out", tmp_path / "out", "--images", "nowhere"), "nowhere is neither a folder"),
    ):
        done = call("export", run, *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert tree(tmp_path) == before and sorted(one.name for one in tmp_path.iterdir()) == ["mine"]


def test_overwrite_replaces_an_export_and_only_that(run, tmp_path):
    words = ("export", run, "--to", "safetensors", "--out", tmp_path / "out")
    assert call(*words).returncode == 0
    again = call(*words)
    assert again.returncode == 2 and "replace that export with --overwrite" in again.stderr
    assert call(*words, "--overwrite", "--license", "mit").returncode == 0
    page = tmp_path / "out/README.md"
    assert page.read_text().startswith("---\nlicense: mit\n")
    page.write_text("my own words")
    refused = call(*words, "--overwrite")
    assert refused.returncode == 2 and "README.md was changed after the export" in refused.stderr
    assert page.read_text() == "my own words"


def test_an_interrupted_export_leaves_nothing_behind(run, tmp_path, monkeypatch):
    """Of several formats, not even those that were complete: they belong together."""

    def interrupted(self, folder, encoder):
        raise KeyboardInterrupt

    monkeypatch.setattr(TimmFolder, "reload", interrupted)
    done = call("export", run, "--to", "safetensors,timm", "--out", tmp_path / "out")
    assert done.returncode == 130 and list(tmp_path.iterdir()) == []


def test_the_python_call_takes_a_run_and_a_list(run, tmp_path):
    done = library.export(library.Run(run), to=["safetensors"], out=tmp_path / "out", images=pictures(3))
    assert done.images == "3 images of pictures (--images)" and done.exports[0].files[0] == "README.md"
    assert "hjepa.export(" in (tmp_path / "out/README.md").read_text()
