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
