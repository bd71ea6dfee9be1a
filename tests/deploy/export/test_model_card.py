"""A model card says what a stranger has to know, and the hub can read its header."""

import re

import numpy as np
import pytest
import torch
from conftest import TINY
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hjepa
from hjepa.commands.export import export
from hjepa.data.augment import ResizeToInput
from hjepa.deploy.export.model_card import resize_code
from hjepa.models.frozen import load_frozen


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("card")
    random = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (home / "photos" / name).mkdir(parents=True)
        for number in range(12):
            low = 128 if name == "bright" else 0
            pixels = random.integers(low, low + 128, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "photos" / name / f"{number}.png")
    sections = {name: dict(values) for name, values in TINY.items()}
    sections["train"]["length"], sections["model"]["levels"] = 3, [[1, 2], [2, 1]]
    return hjepa.pretrain(home / "photos", out=home / "a run", **sections)


def card_of(run, tmp_path, **options) -> tuple[str, ModelCard]:
    export(run, to="timm", out=tmp_path / "timm", **options)
    text = (tmp_path / "timm/README.md").read_text()
    return " ".join(text.split()), ModelCard(text)


def test_everything_is_in_it(run, tmp_path):
    text, card = card_of(run, tmp_path, license="cc-by-4.0", command="hjepa export 'a run' --to timm --out timm")
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-feature-extraction"
    record = run.record
    for fact in (
        "# a run",
        "2 blocks of width 32, 2 heads, patches of 4 pixels, no class token, fixed sine-cosine positions. "
        "Images have 3 channels and 16x16 pixels",
        "Subtract the mean (0.5, 0.5, 0.5) and divide by the standard deviation (0.25, 0.25, 0.25)",
        "`pooled` is their mean",
        "| 0 | 1 | 2x2 patches | | 1 | 2 | 1x1 patches |",
        f"| data fingerprint | `{record['data']['fingerprint']}` |",
        "24 images, no labels used",
        f"**{record['verdict']['verdict']}**: {record['verdict']['evidence']}",
        "| audit of the training loop | conforms (3 steps) |",
        "This encoder has not been evaluated with labels",
        "compared with the encoder of the run, in float32 on the CPU, on 8 of the run's own images",
        "in batches of 1 and 8, at 16x16 pixels: the largest absolute difference is **",
        "cc-by-4.0, as chosen by whoever exported these weights.",
        "```sh hjepa export 'a run' --to timm --out timm ```",
    ):
        assert fact in text, fact


def test_evaluations_are_in_it_with_intervals_and_controls(run, tmp_path):
    photos = run.path.parent / "photos"
    result = hjepa.evaluate(run, train=photos, test=photos, protocols="knn").results[0].to_json()
    text, card = card_of(run, tmp_path)
    assert card.data.license == "unknown" and "None was chosen for these weights" in text

    def per_cent(value, interval):
        return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"

    controls = [
        per_cent(result["controls"][name], result["control_intervals"][name]) for name in ("random_init", "raw_pixels")
    ]
    row = ["label", "knn", "avg", "last", per_cent(result["accuracy"], result["interval"]), *controls, "24 / 24"]
    assert f"| {' | '.join(row)} |" in text
    assert "Training and test images are the same" in text  # the evaluation's own warning goes along
    (run.path / "evaluation.json").unlink()


sides = st.integers(4, 70)


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(sides, sides), target=st.tuples(sides, sides), how=st.sampled_from(["crop", "pad"]))
def test_the_torchvision_lines_resize_as_training_did(size, target, how):
    class Encoder:
        card = {"preprocess": {"image_size": target, "fit": how}}  # noqa: RUF012
        value_range = None

    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8))
    names = {"pixels": pixels}
    exec(resize_code(Encoder()), names)
    expected = ResizeToInput(target, 3, how)(pixels.permute(1, 2, 0).numpy())
    assert torch.equal(names["image"], expected / 255)


def test_the_torchvision_lines_scale_images_of_16_bits(tmp_path):
    class Encoder:
        card = {"preprocess": {"image_size": [16, 16], "fit": "crop"}}  # noqa: RUF012
        value_range = (1000.0, 30000.0)

    image = np.random.default_rng(0).integers(0, 40_000, (30, 40, 1), dtype=np.uint16)
    names = {"pixels": torch.from_numpy(image.astype(np.int32)).permute(2, 0, 1)}
    exec(resize_code(Encoder()), names)
    torch.testing.assert_close(names["image"], ResizeToInput((16, 16), 1, "crop", (1000.0, 30000.0))(image))


def test_every_code_block_is_python(run, tmp_path):
    export(run, to="timm,safetensors", out=tmp_path / "all")
    for page in tmp_path.rglob("README.md"):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)
        assert len(blocks) == 2
        for block in blocks:
            compile(block, str(page), "exec")


def test_a_verdict_of_a_saved_encoder_alone_is_unknown_not_invented(run, tmp_path):
    export(run, to="safetensors", out=tmp_path / "alone")
    again = export(tmp_path / "alone", to="timm", out=tmp_path / "timm")  # a folder without run.json
    text = (tmp_path / "timm/README.md").read_text()
    assert "| verdict |" not in text and "# alone" in text
    assert again.images_from == "synthetic" and load_frozen(run.path).card["provenance"]["step"] == 3
    assert "step 3" in text
