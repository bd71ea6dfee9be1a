"""The encoder of a checkpoint, in a folder of its own that ``hjepa evaluate`` reads.

python benchmarks/quality/checkpoint_encoder.py runs/a/checkpoints/step-00000500 encoder-at-500
"""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

PREFIX = "target_encoder.encoder.vit."


def write_encoder(checkpoint: Path, folder: Path) -> None:
    """Write encoder.safetensors and encoder.json of a run's checkpoint into ``folder``."""
    run = checkpoint.resolve().parents[1]
    card = json.loads((run / "encoder.json").read_text())
    card["provenance"]["step"] = json.loads((checkpoint / "state.json").read_text())["step"]
    weights = load_file(checkpoint / "weights.safetensors")
    own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items() if name.startswith(PREFIX)}
    expected = load_file(run / "encoder.safetensors").keys()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: own[name] for name in expected}, folder / "encoder.safetensors")
    (folder / "encoder.json").write_text(json.dumps(card))
    if (run / "config.json").is_file():
        shutil.copy(run / "config.json", folder)


def main() -> None:
    """Write the encoder of the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    write_encoder(asked.checkpoint, asked.folder)


if __name__ == "__main__":
    main()
