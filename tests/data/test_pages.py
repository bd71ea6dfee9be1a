"""Pages of a TIFF and frames of an animation: the first and a line that says so, or each an image of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call, environment
from conftest import tiny_options
from PIL import Image

from hjepa.commands.check import check
from hjepa.data.decode import read_header, read_image
from hjepa.data.pages import page_places
from hjepa.data.reduce import Reduction
from hjepa.data.sources import image_name, open_source
from hjepa.data.training_images import TrainingImages
from hjepa.errors import UserError

tifffile = pytest.importorskip("tifffile")


def grey(pages: int = 5, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(pages).integers(0, 60000, (pages, *size), dtype=np.uint16)


def write(file: Path, values: np.ndarray, **options) -> None:
    tifffile.imwrite(file, values, **{"photometric": "minisblack"} | options)


def colour(pages: int = 4) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 255, (pages, 2, 3, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)


STACKS = {
    "plain": (grey(), {}),
    "deflate": (grey(), {"compression": "zlib"}),
    "LZW in colour": (colour(), {"compression": "lzw", "photometric": "rgb"}),
    "big-endian": (grey(), {"byteorder": ">"}),
    "BigTIFF": (grey(), {"bigtiff": True, "compression": "zlib"}),
    "ImageJ": (grey(), {"imagej": True}),
    "OME": (grey(), {"ome": True}),
    "float": (grey().astype(np.float32) / 7, {}),
    "6 bands": (grey(24).reshape(4, 6, 20, 30), {"photometric": "minisblack", "planarconfig": "separate"}),
}


@pytest.mark.parametrize("name", STACKS)
def test_every_page_is_read_as_tifffile_reads_it(name, tmp_path):
    values, options = STACKS[name]
    write(tmp_path / "a.tif", values, **options)
    wanted = (
        values if name == "LZW in colour" else np.moveaxis(values, 1, -1) if values.ndim == 4 else values[..., None]
    )
    source = open_source(tmp_path, pages="all")
    assert len(source) == len(values) and source.channels == wanted.shape[-1]
    assert all(np.array_equal(source[n], wanted[n]) for n in (len(values) - 1, 0, 2, 1))  # in any order
    assert read_header(source.paths[1]).size == wanted.shape[1:3]
    assert image_name(source, 2) == f"{tmp_path}/a.tif, page 3"
    assert np.array_equal(open_source(tmp_path)[0], wanted[0])


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "avif"])
def test_frames_of_an_animation(kind, tmp_path):
    pictures = [Image.fromarray(frame) for frame in colour()]
    pictures[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=pictures[1:], lossless=True, quality=95)
    source = open_source(tmp_path, pages="all")
    assert len(source) == 4 and source.channels == 3
    assert all(np.abs(source[n].astype(int) - colour()[n]).mean() < 12 for n in (3, 0, 2, 1))


def test_the_first_page_alone_is_used_and_said(tmp_path):
    write(tmp_path / "a.tif", grey(5))
    write(tmp_path / "b.tif", grey(3))
    Image.fromarray(colour()[0]).convert("L").save(tmp_path / "c.png")
    source = open_source(tmp_path)
    assert len(source) == 3
    assert source.notices()[0] == (
        "2 of 3 files have several pages or frames (8 in all), of which the first is used: --data.pages all makes each "
        "of them an image"
    )
    (found,) = (each for each in check(tmp_path).findings if each.problem == "several pages")
    assert list(found.images.values()) == ["5 pages", "3 pages"] and "--data.pages all" in found.text
    everything = check(tmp_path, data={"pages": "all"})
    assert len(everything.source) == 9 and not [f for f in everything.findings if f.problem == "several pages"]
    assert any("8 pages or frames of 2 files are images of their own" in text for text in everything.notices)


def test_smaller_copies_masks_and_previews_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for values, kind in ((grey(1)[0], 0), (grey(1)[0, ::2, ::2], 1), (grey(2)[1], 0)):
            file.write(values, subfiletype=kind, photometric="minisblack")
    pictures = [Image.fromarray(frame) for frame in colour()]
    pictures[0].save(tmp_path / "b.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    assert [len(page_places(tmp_path / name)) for name in ("a.tif", "b.jpg")] == [2, 1]
    source = open_source(tmp_path / "a.tif")
    assert len(source) == 2 and np.array_equal(source[1][..., 0], grey(2)[1])


@pytest.mark.parametrize("damage", ["a loop", "cut", "nothing", "a place outside"])
def test_a_damaged_chain_of_pages_ends(damage, tmp_path):
    write(tmp_path / "a.tif", grey(4), compression="zlib")
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    places = page_places(tmp_path / "a.tif")
    if damage in ("a loop", "a place outside"):
        count = int.from_bytes(whole[places[1] : places[1] + 2], "little")
        target = places[0] if damage == "a loop" else 1 << 30
        whole[places[1] + 2 + 12 * count :][:4] = b""
        at = places[1] + 2 + 12 * count
        whole[at : at + 4] = target.to_bytes(4, "little")
    else:
        del whole[places[2] + 9 if damage == "cut" else 8 :]
    (tmp_path / "a.tif").write_bytes(whole)
    assert len(page_places(tmp_path / "a.tif")) == {"nothing": 1}.get(damage, 2)


def test_pages_have_the_class_of_their_file_and_another_fingerprint(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.tif", grey(2 if name == "cat" else 3))
    source = open_source(tmp_path, pages="all")
    assert source.labels["label"].tolist() == [0, 0, 1, 1, 1] and source.classes == ["cat", "dog"]
    before = source.fingerprint()
    assert before.startswith("5-") and before == open_source(tmp_path, pages="all").fingerprint()
    write(tmp_path / "cat" / "a.tif", grey(4))
    assert open_source(tmp_path, pages="all").fingerprint() != before


def test_a_file_without_pages_and_data_without_files(tmp_path):
    Image.fromarray(colour()[0]).save(tmp_path / "a.png")
    assert type(open_source(tmp_path, pages="all")).__name__ == "FolderSource"  # nothing changes
    with pytest.raises(UserError, match=r"a\.png is a single image of one page: pass the folder"):
        open_source(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"data\.pages = all: only image files have pages, and array has none"):
        open_source(colour(), pages="all")


def test_the_cache_keeps_each_page(tmp_path):
    write(tmp_path / "a.tif", grey(4))
    source = open_source(tmp_path, pages="all")
    images = TrainingImages(source, Reduction((20, 30)), str(tmp_path / "cache"))
    for _ in range(2):
        assert all(np.array_equal(images[n], source[n]) for n in range(4))
    assert len(images.cache) == 4
    write(tmp_path / "a.tif", grey(5))  # the same name, other pages
    source = open_source(tmp_path, pages="all")
    images = TrainingImages(source, Reduction((20, 30)), str(tmp_path / "cache"))
    assert all(np.array_equal(images[n][..., 0], grey(5)[n]) for n in range(5))


def test_pages_in_an_archive(tmp_path):
    import zipfile

    write(tmp_path / "a.tif", grey(3), compression="zlib")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
            archive.write(tmp_path / "a.tif", "a.tif")
        source = open_source(tmp_path / "a.zip", pages="all")
        assert [np.array_equal(source[n][..., 0], grey(3)[n]) for n in range(3)] == [True] * 3


MEMORY = """
import resource, sys
from pathlib import Path
from hjepa.data.sources import open_source
source = open_source(sys.argv[1])
first = source[1].sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(int(source[n].sum()) for n in range(0, len(source), 7))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_a_page_needs_the_memory_of_a_page(compression, tmp_path):
    stack = np.random.default_rng(0).integers(0, 65535, (60, 1024, 1024), dtype=np.uint16)  # 126 MB
    write(tmp_path / "a.tif", stack, compression=compression)
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "a.tif")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment())
    assert float(done.stdout) < 15  # MB; a page has 2, and its decoding needs some


@pytest.mark.slow
def test_a_run_on_a_stack_embeds_its_pages(tmp_path):
    write(tmp_path / "a.tif", grey(9))
    run, auto = tmp_path / "run", {"data__channels": "auto", "data__mean": "auto", "data__std": "auto"}
    done = call("pretrain", tmp_path / "a.tif", "--out", run, *tiny_options(train__length=2, **auto))
    assert done.returncode == 0, done.stderr
    assert "9 pages or frames of 1 file are images of their own" in done.stdout
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "b.tif", grey(4))
    done = call("embed", run, tmp_path / "folder", "--out", tmp_path / "e.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e.csv").read_text().count("b.tif, page") == 4
    assert read_image(tmp_path / "folder" / "b.tif").shape == (20, 30, 1)
