"""The page of a map: places, pictures and neighbours as data, and a script that draws them."""

import base64
import json
import re
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from hjepa.deploy.map.atlas import Atlas
from hjepa.files import write_text

# Nothing may be loaded from anywhere: what is on the page is all there is.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_map_page(
    path: Path, *, title: str, caption: str, names: list[str], places: np.ndarray, neighbours: np.ndarray, atlas: Atlas
) -> None:
    """Write a page for images with ``places`` [n, 2] in 0..1 and the indices of their ``neighbours`` [n, k]."""
    data = {
        "names": names,
        "places": _packed(np.round(places * 65535).astype("<u2")),
        "neighbours": _packed(neighbours.astype("<u4")),
        "perImage": neighbours.shape[1] if neighbours.ndim == 2 else 0,
        "side": atlas.side,
        "columns": atlas.columns,
    }
    # "</script" inside a file name would end the script.
    packed = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    values = {
        "POLICY": _POLICY,
        "TITLE": escape(title),
        "CAPTION": escape(caption),
        "STYLE": _template("page.css"),
        "SCRIPT": _template("page.js"),
        "ATLAS": atlas.data,
        "DATA": packed,
    }
    page = re.sub("@([A-Z]+)@", lambda found: values[found[1]], _template("page.html"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _template(name: str) -> str:
    return (files("hjepa.deploy.map") / name).read_text(encoding="utf-8")


def _packed(numbers: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode()
