"""Files that a run writes before its first step: run.json, config.yaml, masks.json."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from hjepa.config import Config, Resolved, dump
from hjepa.data.sources import ImageSource
from hjepa.files import write_json, write_text
from hjepa.masking import MaskSampler, coverage, svg
from hjepa.models.hjepa import HJEPA
from hjepa.runs.folder import RunFolder
from hjepa.setup.machine import hardware
from hjepa.version import __version__

CONFIG_NOTE = (
    "# With --config, another run repeats this one, including its steps; a different train.length resets them.\n"
)


def new_record(command: str, source: ImageSource, model: HJEPA, config: Config) -> dict[str, Any]:
    """Return the content of run.json before the first step."""
    return {
        "format": 1,
        "status": "running",
        "command": command,
        "created": now(),
        "finished": None,
        "versions": {"hjepa": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "timm", "accelerate", "numpy")},
        "git": _git(Path.cwd()),
        "hardware": hardware(),
        "data": {"source": source.name, "images": len(source), "fingerprint": source.fingerprint()},
        "seed": config.train.seed,
        "precision": config.train.precision,
        "attention": config.train.attention,
        "parameters": {
            "context_encoder": _count(model.context_encoder),
            "predictor": _count(model.predictor),
        },
    }


def write_config(folder: RunFolder, resolved: Resolved) -> None:
    """Write config.yaml."""
    write_text(folder.config, CONFIG_NOTE + dump(resolved))


def write_mask_statistics(folder: RunFolder, config: Config, sampler: MaskSampler) -> None:
    """Write masks.json: how the run's mask sampler covers its grid."""
    # Counted in contexts: with the released sampler, larger batches of masks have fewer visible patches.
    batch = config.optim.batch_size * config.masking.contexts
    steps = min(64, max(4, 4096 // batch))
    statistics = coverage(sampler, config.grid, steps=steps, batch=batch)
    write_json(folder.masks, statistics.to_json() | {"svg": svg(statistics)})


def now() -> str:
    """Return the time as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _git(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanliness of the working directory's repository, if it is one."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
