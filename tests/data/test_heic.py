"""Photographs of phones: HEIC, where its package is installed, and a line that names it where it is not."""

import re
import subprocess
import sys

import numpy as np
import pytest
from commands import environment
from PIL import Image

from hjepa.data.decode import read_image
from hjepa.data.sources import open_source
from hjepa.errors import UnreadableImage

pillow_heif = pytest.importorskip("pillow_heif")


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "b.heic", quality=95)
    return tmp_path


def test_it_is_read_like_any_other(folder):
    source = open_source(folder)
    assert [path.name for path in source.paths] == ["a.png", "b.heic"] and source.notices() == []
    assert np.abs(source[0].astype(int) - source[1]).mean() < 6


def test_a_list_may_name_it_and_a_fresh_process_reads_it(folder):
    code = "import sys; from pathlib import Path; from hjepa.data.decode import read_image; "
    code += "sys.stdout.write(str(read_image(Path(sys.argv[1])).shape))"
    words = [sys.executable, "-c", code, str(folder / "b.heic")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == "(64, 96, 3)"


def test_without_the_package_it_is_named(folder):
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path; from hjepa.data.decode import read_image\n"
        "from hjepa.data.sources import open_source\n"
        "source = open_source(sys.argv[1])\n"
        "sys.stdout.write(f'{len(source)} {source.notices()[0]}')\n"
        "read_image(Path(sys.argv[1], 'b.heic'))\n"
    )
    words = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
    assert done.stdout == "1 1 file is a photograph in HEIC, which is read with: pip install 'hjepa[heif]'"
    assert re.search(r"UnreadableImage: .*b\.heic: cannot decode .*pip install 'hjepa\[heif\]'", done.stderr)


def test_a_damaged_one_is_named(folder):
    whole = (folder / "b.heic").read_bytes()
    for length in (40, len(whole) // 2):
        (folder / "b.heic").write_bytes(whole[:length])
        with pytest.raises(UnreadableImage, match=r"b\.heic: cannot decode"):
            read_image(folder / "b.heic")


# The smallest JPEG XL image that its encoder makes of 8 x 8 grey pixels.
JPEG_XL = bytes.fromhex("ff0a414050dc080800010044004b188b15c241014e230000000000000000")


@pytest.mark.parametrize("ending", [".jxl", ""])
def test_jpeg_xl_without_its_package_is_named(tmp_path, monkeypatch, ending):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    # Another test may have read one in this process.
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "JXL"])
    monkeypatch.delitem(Image.OPEN, "JXL", raising=False)
    monkeypatch.delitem(Image.EXTENSION, ".jxl", raising=False)
    (tmp_path / f"a{ending}").write_bytes(JPEG_XL)
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    source = open_source(tmp_path)
    assert len(source) == 1 and ("JPEG XL" in source.notices()[0]) == (ending == ".jxl")
    with pytest.raises(UnreadableImage, match=r"a JPEG XL image, which is read with: pip install 'hjepa\[jxl\]'"):
        read_image(tmp_path / f"a{ending}")


def test_jpeg_xl_is_read_where_its_package_is(tmp_path):
    pillow_jxl = pytest.importorskip("pillow_jxl")
    assert pillow_jxl
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jxl", lossless=True)
    (tmp_path / "b.bin").write_bytes(b"\xff\x0a is no image")
    source = open_source(tmp_path)
    assert len(source) == 1 and np.array_equal(source[0], pixels)
    (tmp_path / "a.jxl").write_bytes((tmp_path / "a.jxl").read_bytes()[:100])
    with pytest.raises(UnreadableImage, match=r"a\.jxl: cannot decode"):
        read_image(tmp_path / "a.jxl")
