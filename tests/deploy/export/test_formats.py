"""Every format is written from a real run, and what its model card says works without this library."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, environment
from conftest import TINY
from PIL import Image
from runs import pictures
from safetensors.torch import load_file

import hjepa as library
from hjepa.commands.export import export
from hjepa.data.augment import ResizeToInput
from hjepa.data.decode import read_image
from hjepa.deploy.export.formats import FORMATS
from hjepa.errors import UserError
from hjepa.models.frozen import load_frozen

TOLERANCE = 1e-5  # the largest absolute difference that an export may have, in float32

# What a stranger's encoder may be like: settings of the run, and the mode and size (W, H) of its image files.
VARIANTS = {
    "colour": ({"model": {"levels": [[1, 2], [2, 1]]}}, "RGB", (16, 16)),
    "wide and grey": ({"data": {"image_size": [16, 24], "channels": 1, "mean": [0.4], "std": [0.2]}}, "L", (24, 16)),
    "padded, four channels": (
        {
            "data": {"channels": 4, "mean": [0.5, 0.4, 0.3, 0.2], "std": [0.25] * 4, "fit": "pad"},
            "augment": {"crop_scale": None},
        },
        "RGBA",
        (16, 16),
    ),
    "16 bits": (
        {"data": {"channels": 1, "mean": [0.4], "std": [0.2], "value_range": [1000.0, 30000.0]}}, "I;16", (16, 16),
    ),
}  # fmt: skip


def write_images(folder: Path, mode: str, size: tuple[int, int], count: int = 12) -> None:
    """Write images of the encoder's size, so that resizing plays no part."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        if mode == "I;16":
            image = Image.fromarray(random.integers(0, 40000, (size[1], size[0]), dtype=np.uint16))
        else:
            bands = len(Image.new(mode, (1, 1)).getbands())
            image = Image.fromarray(random.integers(0, 256, (size[1], size[0], bands), dtype=np.uint8).squeeze())
        image.save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a function that trains the run of a variant, once."""
    known = {}

    def run_of(variant: str) -> Path:
        if variant not in known:
            settings, mode, size = VARIANTS[variant]
            home = tmp_path_factory.mktemp("run")
            write_images(home / "photos", mode, size)
            sections = {name: {**TINY[name], **settings.get(name, {})} for name in TINY}
            sections["train"]["length"] = 3
            known[variant] = library.pretrain(home / "photos", out=home / "run", **sections).path
        return known[variant]

    return run_of


def own_images(run: Path) -> torch.Tensor:
    """Return the images of a run as the encoder takes them, floats in 0..1."""
    frozen = load_frozen(run)
    preprocess = frozen.card["preprocess"]
    resize = ResizeToInput(tuple(preprocess["image_size"]), len(frozen.mean), preprocess["fit"], frozen.value_range)
    files = sorted((run.parent / "photos").iterdir())
    batch = torch.stack([resize(read_image(file, len(frozen.mean))) for file in files])
    return batch / 255 if batch.dtype == torch.uint8 else batch


def as_the_card_says(folder: Path, images: torch.Tensor, photo: Path | None, work: Path) -> tuple[np.ndarray, ...]:
    """Run the Python code of a model card in a fresh process that cannot import hjepa; return tokens and pooled."""
    block = re.search(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), flags=re.M | re.S)[1]
    np.save(work / "images.npy", images.numpy())
    if photo is not None:
        (work / "photo.jpg").write_bytes(photo.read_bytes())  # Pillow goes by the content
    code = f"""
import sys
sys.modules["hjepa"] = None  # so that an import of it fails
import numpy as np, torch
torch.set_num_threads(1)
image = images = torch.from_numpy(np.load("images.npy"))
if "onnxruntime" in {block!r}:
    images = images.numpy()
image = list(image)
{block.replace("FOLDER", str(folder))}
np.savez("features.npz", tokens=np.asarray(tokens), pooled=np.asarray(pooled))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    features = np.load(work / "features.npz")
    return features["tokens"], features["pooled"]


def check_card_of(run: Path, to: str, tmp_path: Path) -> None:
    """Export a run with the command, and compare what its model card gives in a fresh process with ``load_encoder``."""
    done = call("export", run, "--to", to, "--out", tmp_path / "export", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    [one] = result["exports"]
    assert 0 <= one["largest_difference"] < TOLERANCE and one["batches"] == [1, 8]
    assert result["images"]["from"] == "run" and "run's own images" in result["images"]["what"]
    images, photo = own_images(run), sorted((run.parent / "photos").iterdir())[0]
    tokens, pooled = as_the_card_says(tmp_path / "export", images, photo, tmp_path)
    expected = load_frozen(run)(images[: len(tokens)])
    assert np.abs(tokens - expected.tokens.numpy()).max() < TOLERANCE
    assert np.abs(pooled - expected.pooled.numpy()).max() < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("to", ["timm", "safetensors", "transformers", "torch"])
def test_the_code_of_the_model_card_gives_the_features_of_the_encoder(runs, to, variant, tmp_path):
    check_card_of(runs(variant), to, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["colour", "wide and grey"])  # a translation to ONNX takes half a minute
def test_the_code_of_an_onnx_card_gives_the_features_of_the_encoder(runs, variant, tmp_path):
    check_card_of(runs(variant), "onnx", tmp_path)


def test_timm_and_safetensors_hold_the_weights_of_the_run(runs, tmp_path):
    run = runs("colour")
    done = export(run, to="timm,safetensors", out=tmp_path / "all")
    written = load_file(run / "encoder.safetensors")
    for one, file in zip(done.exports, ("model.safetensors", "encoder.safetensors"), strict=True):
        assert one.folder == tmp_path / "all" / one.to
        state = load_file(one.folder / file)
        assert state.keys() == written.keys() and all(torch.equal(state[name], written[name]) for name in state)
        assert one.comparison.largest < TOLERANCE
    torch.testing.assert_close(
        library.load_encoder(tmp_path / "all/safetensors")(own_images(run)).pooled,
        library.load_encoder(run)(own_images(run)).pooled,
    )


def test_weights_that_were_damaged_on_the_way_are_not_published(runs, tmp_path, monkeypatch):
    """What is compared is what lies on the disk: a wrong weight is found, and nothing is left behind."""
    safetensors = type(FORMATS["safetensors"])
    write = safetensors.write

    def damaged(self, encoder, folder, level):
        spoilt = load_frozen(runs("colour"))
        with torch.no_grad():
            spoilt.encoder.vit.blocks[0].mlp.fc2.weight.mul_(1.5)
        write(self, spoilt, folder, level)

    monkeypatch.setattr(safetensors, "write", damaged)
    with pytest.raises(UserError, match=r"--to safetensors: features differ by up to .* not rounding; nothing was"):
        export(runs("colour"), to="safetensors", out=tmp_path / "spoilt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_transformers_reads_every_weight_and_says_what_it_is(runs, tmp_path):
    from transformers import AutoConfig, AutoModel

    export(runs("wide and grey"), to="transformers", out=tmp_path / "hf")
    model, found = AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(found.values()) and type(model).__name__ == "IJepaModel"
    config = AutoConfig.from_pretrained(tmp_path / "hf")
    assert (config.image_size, config.num_channels, config.layer_norm_eps) == ([16, 24], 1, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_processors_of_other_libraries_come_close_on_photographs_of_any_shape(tmp_path, fit):
    """Their own resizing is measured, not assumed: the difference is in the result and in the model card."""
    rows, columns = np.mgrid[0:60, 0:80] / 80.0
    (tmp_path / "photos").mkdir()
    for number in range(4):
        waves = np.sin(6 * rows + number)[..., None] * np.cos(4 * columns)[..., None] * np.array([1.0, 0.5, -1.0])
        pixels = np.rint(127.5 + 120 * waves).astype(np.uint8)[: 60 - 3 * number]
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    sections = {name: dict(values) for name, values in TINY.items()}
    sections["data"]["fit"], sections["train"]["length"] = fit, 2
    sections["augment"]["crop_scale"] = None
    run = library.pretrain(tmp_path / "photos", out=tmp_path / "run", **sections)
    done = export(run, to="timm,transformers", out=tmp_path / "all")
    for one in done.exports:
        pixels = one.comparison.pixels
        # A pixel more or less along the longer side: of a padded image that is a whole row of the border, which in
        # timm has the mean colour.
        limit = {"crop": 0.02, "pad": 0.3 if one.to == "timm" else 0.03}[fit]
        assert 0 < pixels.mean < limit and (fit == "pad" or pixels.largest < 0.2), (one.to, pixels)
        assert f"pixels differ by up to {pixels.largest:.4f}" in " ".join(
            (one.folder / "README.md").read_text().split()
        )


@pytest.mark.slow
def test_onnx_is_dynamic_in_all_sizes_and_named(runs, tmp_path):
    import onnx
    import onnxruntime

    export(runs("colour"), to="onnx", out=tmp_path / "onnx")
    model = onnx.load(tmp_path / "onnx/encoder.onnx")
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"], "tokens": ["batch", "patches", 32], "pooled": ["batch", 32],
    }  # fmt: skip
    assert {one.domain: one.version for one in model.opset_import} == {"": 18}
    session = onnxruntime.InferenceSession(tmp_path / "onnx/encoder.onnx", providers=["CPUExecutionProvider"])
    encoder = load_frozen(runs("colour"))
    for shape in ((1, 8, 8), (3, 16, 16), (2, 12, 40), (5, 64, 20)):
        images = torch.rand(shape[0], 3, *shape[1:])
        found, expected = session.run(None, {"images": images.numpy()}), encoder(images)
        for mine, theirs in zip(expected, found, strict=True):
            assert np.abs(mine.numpy() - theirs).max() < TOLERANCE, shape


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_one_level_can_be_exported(runs, to, tmp_path):
    """A level of 2x2 cells on a grid that two does not divide."""
    run = runs("colour")
    done = export(run, to=to, out=tmp_path / "level", level=0)
    assert done.exports[0].comparison.largest < TOLERANCE
    images = torch.rand(2, 3, 20, 28)
    tokens, pooled = as_the_card_says(tmp_path / "level", images, None, tmp_path)
    cells = library.load_encoder(run).levels(images)[0]
    assert cells.shape == (2, 3, 4, 32) and tokens.shape == (2, 12, 32)
    assert np.abs(tokens - cells.flatten(1, 2).numpy()).max() < TOLERANCE
    assert np.abs(pooled - cells.mean((1, 2)).numpy()).max() < TOLERANCE
    assert "This export is level 0: tokens after block 1 of 2" in (tmp_path / "level/README.md").read_text()


def test_what_cannot_be_exported_is_refused_in_one_line(runs, tmp_path, monkeypatch):
    run = runs("colour")
    with pytest.raises(UserError, match=r"--to tim: unknown format; did you mean timm\?.*onnx"):
        export(run, to="tim", out=tmp_path / "out")
    with pytest.raises(UserError, match=r"--to: names no format; choose from timm"):
        export(run, to=" , ", out=tmp_path / "out")
    with pytest.raises(UserError, match=r"--level 0: --to timm holds the whole network.*--to onnx or --to torch"):
        export(run, to="timm", out=tmp_path / "out", level="0")
    with pytest.raises(UserError, match=r"--level 7: the levels of this encoder are 0 \(depth 1, stride 2\), 1"):
        export(run, to="torch", out=tmp_path / "out", level="7")
    with pytest.raises(UserError, match=r"--out .*encoder\.onnx: an export is a folder.*use --out .*/encoder$"):
        export(run, to="torch", out=tmp_path / "encoder.onnx")
    with pytest.raises(UserError, match=r"--license my own: expected an identifier"):
        export(run, to="timm", out=tmp_path / "out", license="my own")
    with pytest.raises(UserError, match=r"nowhere contains no encoder"):
        export(tmp_path / "nowhere", to="timm", out=tmp_path / "out")
    for to, package, extra in (("onnx", "onnxruntime", "onnx"), ("transformers", "transformers", "hf")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr(
            f"hjepa.deploy.export.{to}_{'file' if to == 'onnx' else 'folder'}.find_spec", lacks(package)
        )
        with pytest.raises(UserError, match=rf"--to {to} needs {package}: pip install 'hjepa\[{extra}\]'"):
            export(run, to=f"timm,{to}", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def lacks(package: str):
    """Return what ``find_spec`` is on a machine without a package."""
    from importlib.util import find_spec

    return lambda name: None if name == package else find_spec(name)


def test_a_level_of_pixels_has_nothing_to_export(tmp_path):
    sections = {name: dict(values) for name, values in TINY.items()}
    sections["model"]["levels"], sections["train"]["length"] = [[0, 1], [2, 1]], 1
    run = library.pretrain(pictures(), out=tmp_path / "run", **sections)
    with pytest.raises(UserError, match=r"--level 0: .*computed from pixels without weights; choose another level"):
        export(run, to="torch", out=tmp_path / "out", level=0)
