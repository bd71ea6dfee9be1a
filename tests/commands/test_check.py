"""`hjepa check`: every planted fault of a folder is found and named, and sound folders are called so."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call, hjepa, tree
from PIL import Image

import hjepa as package
from hjepa.commands.given import RECIPES_BY_DEVICE, given_layers
from hjepa.config import resolve
from hjepa.data.bad_images import BadImages
from hjepa.data.duplicates import exact_groups, near_groups
from hjepa.data.preflight import look_at_all
from hjepa.data.sources import open_source, open_unread
from hjepa.errors import UserError
from hjepa.setup.autoconfig import resize_of, resolve_auto
from hjepa.setup.image_sizes import with_sizes


def picture(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    """Return a coarse pattern, which keeps its looks at any size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def sound(root: Path, count: int = 24) -> Path:
    for number in range(count):
        file = root / ("cat", "dog")[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
    return root


def problems(result) -> dict[str, set[str]]:
    return {f.problem: {Path(result.name(i)).name for i in f.images} for f in result.findings}


def test_a_sound_folder_is_called_sound_and_left_as_it_is(tmp_path):
    root = sound(tmp_path / "photos")
    before = tree(root)
    done = call("check", root, "--strict")
    assert done.returncode == 0 and done.stdout.endswith("nothing is wrong\n"), done.stdout + done.stderr
    assert "24 images" in done.stdout and "2 classes: cat (12), dog (12)" in done.stdout
    assert "24  PNG, colour of 8 bits: used as it is" in done.stdout
    assert "WRONG" not in done.stdout and len(done.stdout.splitlines()) < 15
    assert tree(root) == before


def faulty(root: Path) -> Path:
    sound(root)
    shutil.copy(root / "cat/000.png", root / "dog/copy.png")
    picture(2).resize((160, 120)).save(root / "dog/larger.jpg", quality=90)
    picture(3).save(root / "cat/whole.jpg")
    cut = (root / "cat/whole.jpg").read_bytes()
    (root / "cat/cut.jpg").write_bytes(cut[: len(cut) // 2])
    (root / "cat/whole.jpg").unlink()
    (root / "cat/text.png").write_text("no image")
    (root / "cat/empty.png").touch()
    picture(40, 8, 10).save(root / "cat/icon.png")
    picture(41, 40, 400).save(root / "cat/long.png")
    picture(42).save(root / "cat/frames.gif", save_all=True, append_images=[picture(43), picture(44)])
    Image.new("RGB", (80, 60), "red").save(root / "cat/red.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(45).save(root / "cat/turned.jpg", exif=turned)
    picture(46).convert("L").save(root / "cat/grey.png")
    picture(47).convert("CMYK").save(root / "cat/print.jpg")
    picture(48).convert("RGBA").save(root / "cat/alpha.png")
    Image.fromarray(np.asarray(picture(49).convert("L")).astype(np.uint16) * 200).save(root / "cat/deep.png")
    (root / "notes.txt").write_text("left out")
    return root


def test_every_fault_is_found_and_named(tmp_path):
    root = faulty(tmp_path / "photos")
    result = package.check(root, list_file=tmp_path / "affected.csv")
    assert problems(result) == {
        "unreadable": {"cut.jpg", "text.png", "empty.png"},
        "too small": {"icon.png"},
        "identical": {"copy.png"},
        "alike": {"002.png", "larger.jpg"},
        "long": {"long.png"},
        "several pages": {"frames.gif"},
        "blank": {"red.png"},
    }
    assert result.wrong and {f.problem for f in result.findings if f.wrong} == {"unreadable", "too small", "identical"}
    facts = result.to_json()
    assert facts["oriented"] == 1 and facts["statistics"]["values"]["max"] > 1000
    said = {(kind["format"], kind["mode"]): kind["treatment"] for kind in facts["kinds"]}
    assert "repeated in 3 channels" in said["PNG", "L"] and "converted to RGB" in said["JPEG", "CMYK"]
    assert "composited on white" in said["PNG", "RGBA"] and "data.value_range" in said["PNG", "I;16"]
    assert sum(kind["images"] for kind in facts["kinds"]) == facts["images"] - 3
    assert any(".txt" in text for text in facts["notices"])
    with (tmp_path / "affected.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows if row["problem"] == "identical"} == {str(root / "dog/copy.png")}
    assert all(Path(row["path"]).is_file() for row in rows)
    assert len(open_unread(tmp_path / "affected.csv")) == len(rows)  # a list like any other


def test_strict_and_json_on_the_command_line(tmp_path):
    root = faulty(tmp_path / "photos")
    done = call("check", root, "--strict", "--list", tmp_path / "a.csv", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["wrong"] is True
    assert call("check", root).returncode == 0
    screen = call("check", root).stdout
    assert "cut.jpg" in screen and "image file is truncated" in screen and "--list" in screen
    assert call("check", root, "--list", tmp_path / "no/a.csv").returncode == 2


@pytest.mark.parametrize("recipe", [None, *(shorter for shorter, _, _ in RECIPES_BY_DEVICE.values())])
def test_the_sizes_are_those_that_a_run_chooses(tmp_path, recipe):
    """Also with each recipe that a run may choose: check does not ask which, for that takes torch."""
    root = faulty(tmp_path / "photos")
    for broken in ("cut.jpg", "text.png", "empty.png"):
        (root / "cat" / broken).unlink()
    result = package.check(root)
    source = open_source(root)
    run = with_sizes(resolve(given_layers(recipe, None, None, [], {})), source, BadImages(len(source), 0.0))
    assert result.resolved.config.image_size == run.config.image_size
    assert result.resolved.config.data == run.config.data
    read = [name for name in run.origin if name.startswith("data.") or name == "model.patch_size"]
    assert {name: result.resolved.origin[name] for name in read} == {name: run.origin[name] for name in read}
    given = package.check(root, data={"image_size": [32, 32]}, model={"patch_size": 8})
    assert given.resolved.config.image_size == (32, 32)
    assert given.to_json()["run"]["reasons"]["data.image_size"] == "call"


def test_the_statistics_are_those_of_the_images(tmp_path):
    root = sound(tmp_path / "photos")
    result = package.check(root, data={"image_size": [60, 80]}, model={"patch_size": 4})
    resolved = resolve_auto(result.resolved, open_source(root))
    assert resize_of(resolved.config).size == (60, 80)  # nothing is cut off or resized
    assert result.statistics["mean"] == pytest.approx(list(resolved.config.data.mean), abs=2e-4)
    assert result.statistics["std"] == pytest.approx(list(resolved.config.data.std), abs=2e-4)


def test_folders_that_are_splits_are_told(tmp_path):
    for split in ("train", "val"):
        sound(tmp_path / "set" / split, 4)
    result = package.check(tmp_path / "set")
    assert "split folders" in problems(result) and result.wrong
    text = next(finding.text for finding in result.findings if finding.problem == "split folders")
    assert "train, val" in text and "look like splits" in text
    assert "split folders" not in problems(package.check(tmp_path / "set" / "train"))


def test_bands_that_cannot_be_mixed_are_told_and_refused_by_a_run(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    root = sound(tmp_path / "photos", 4)
    tifffile.imwrite(
        root / "cat/bands.tif", np.zeros((40, 40, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    result = package.check(root)
    assert "mixed bands" in problems(result) and result.to_json()["run"] is None
    assert "would refuse" in call("check", root).stdout
    with pytest.raises(UserError, match="bands are mixed"):
        open_source(root)


def test_a_missing_reader_is_no_damage(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 255, (40, 40, 5)).astype(np.uint8)
        tifffile.imwrite(tmp_path / f"{number}.tif", values, photometric="minisblack", planarconfig="contig")
    assert problems(package.check(tmp_path)) == {}
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert problems(package.check(tmp_path)) == {"reader missing": {"0.tif", "1.tif"}}


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_find_the_same(tmp_path, workers):
    root = sound(tmp_path / "photos", 300)
    (root / "cat/100.png").write_bytes(b"broken")
    shutil.copy(root / "dog/001.png", root / "dog/299.png")
    seen: list[int] = []
    for number in range(200, 280):  # so that processes meet kinds in another order
        file = root / ("cat", "dog")[number % 2] / f"{number}.png"
        picture(number).save(file, "JPEG")
    found = look_at_all(open_unread(root), workers=workers, progress=seen.append)
    assert {kind.format: found.count(kind) for kind in found.kinds} == {"PNG": 219, "JPEG": 80}
    here = look_at_all(open_unread(root), workers=1)
    assert np.array_equal(found.rows, here.rows) and found.errors == here.errors and found.kinds == here.kinds
    assert [index for index, _, _ in found.headers] == list(range(300)) and seen == [64, 128, 192, 256, 300]


def test_archives_arrays_and_datasets(tmp_path):
    root = sound(tmp_path / "photos")
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos")
    of_folder, of_archive = package.check(root).to_json(), package.check(archive).to_json()
    for name in ("images", "kinds", "width", "classes", "statistics", "run", "findings"):
        assert of_folder[name] == of_archive[name], name
    images = np.stack([np.asarray(picture(number)) for number in range(10)])
    images[7] = images[2]
    result = package.check(images)
    assert problems(result)["identical"] == {"image 7"} and result.channels == 3


def test_the_command_in_a_process_of_its_own(tmp_path):
    done = hjepa("check", sound(tmp_path / "photos"), "--strict")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert hjepa("check", tmp_path / "nowhere").returncode == 2


def test_files_are_checked_without_torch(tmp_path):
    """It takes seconds to import, and most of the memory."""
    root = sound(tmp_path / "photos")
    code = f"import sys; from hjepa.commands.check import check; check({str(root)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_groups_of_equal_and_of_similar_images():
    digests = np.array([b"a" * 16, b"b" * 16, b"a" * 16, b"\0" * 16, b"\0" * 16, b"a" * 16], dtype="V16")
    among = np.array([True, True, True, False, True, True])
    assert [group.tolist() for group in exact_groups(digests, among)] == [[0, 2, 5]]
    random = np.random.default_rng(0)
    thumbnails = random.integers(0, 256, (500, 8, 9)).astype(np.uint8)
    thumbnails[400] = np.clip(thumbnails[17].astype(int) + random.integers(-2, 3, (8, 9)), 0, 255)
    thumbnails[450] = thumbnails[400]
    thumbnails[3:9] = 128  # flat ones are not alike: there is nothing to compare
    assert [group.tolist() for group in near_groups(thumbnails, np.ones(500, bool))] == [[17, 400, 450]]
    inverted = np.stack([thumbnails[0], np.clip(thumbnails[0].astype(int) // 2, 0, 255).astype(np.uint8)])
    assert near_groups(inverted, np.ones(2, bool)) == []  # the same gradients, but far from the same brightness
