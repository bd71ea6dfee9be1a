"""Small real models and runs for all tests."""

import pytest
import torch

from hjepa.config import Layer, Resolved, resolve

# 16 px, 4x4 patches: everything is real and a step takes milliseconds.
TINY = {
    "data": {"image_size": [16, 16], "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "workers": 0},
    "augment": {"crop_scale": [0.5, 1.0], "flip": 0.5},
    "model": {
        "patch_size": 4, "width": 32, "depth": 2, "heads": 2,
        "predictor_width": 16, "predictor_depth": 2, "predictor_heads": 2,
    },
    "masking": {"min_context": 2},
    "optim": {"batch_size": 8, "lr": 1e-3, "final_weight_decay": 0.04},
    "train": {
        "length": 12, "device": "cpu", "precision": "float32", "attention": "plain",
        "log_every": 4, "checkpoint_every": 5,
    },
}  # fmt: skip


def tiny(**sections: dict) -> Resolved:
    """Return the tiny configuration with some settings changed, by section."""
    return resolve([Layer("tiny", TINY), Layer("test", sections)])


def tiny_options(**changes: object) -> list[str]:
    """Return the tiny configuration as command-line options; changes as ``train__length=3``."""
    flat = {f"{s}.{k}": v for s, fields in TINY.items() for k, v in fields.items()}
    flat |= {name.replace("__", "."): value for name, value in changes.items()}
    return [word for name, value in flat.items() for word in (f"--{name}", _shown(value))]


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Decoded images are kept apart from those of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower, and results differ in the last bit, with more threads."""
    torch.set_num_threads(1)
