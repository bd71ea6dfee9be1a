"""Twenty steps of two small runs, recorded: a refactoring that changes a number is seen.

``python tests/test_golden_curve.py`` prints what this version computes, for the day a number is meant to change.
"""

import json
from pathlib import Path

import pytest
from commands import last_weights
from conftest import tiny_options
from runs import pictures

import hjepa

GOLDEN = Path(__file__).parent / "golden" / "curves.json"
# Whole images: how crops are resized is torchvision's affair, and its kernels differ between processors.
SHARED = {"train__length": 20, "train__log_every": 1, "train__precision": "float64", "augment__crop_scale": "none"}
RUNS = {
    "I-JEPA": {"optim__accumulate": 2},
    "levels": {
        "model__levels": "[[0, 1], [1, 2], [2, 1]]",
        "model__initialisation": "xavier",
        "optim__optimizer": "muon",
        "loss__variance_covariance": 0.1,
        "masking__contexts": 2,
        "ema__momentum": 0.9,
    },
}
WEIGHTS = (
    "context_encoder.vit.blocks.0.attn.qkv.weight",
    "predictor.predictor_proj.weight",
    "target_encoder.encoder.vit.blocks.1.mlp.fc1.weight",
)


def computed(name: str, out: Path) -> dict[str, list[float]]:
    """Return the loss of each step and the middle value of three weights after the last."""
    run = hjepa.pretrain(pictures(), out=out, options=tiny_options(**SHARED, **RUNS[name]))
    weights = last_weights(out)
    middle = [weights[key].flatten()[weights[key].numel() // 2].item() for key in WEIGHTS]
    return {"loss": [line["loss"] for line in run.metrics], "weights": middle}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_computes_what_was_recorded(name, tmp_path):
    golden, found = json.loads(GOLDEN.read_text())[name], computed(name, tmp_path / "run")
    assert len(found["loss"]) == len(golden["loss"]) == 20
    assert found["loss"] == pytest.approx(golden["loss"], rel=1e-6)
    assert found["weights"] == pytest.approx(golden["weights"], rel=1e-6)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        curves = {name: computed(name, Path(folder) / name) for name in RUNS}
    print(json.dumps(curves, indent=1))  # noqa: T201
