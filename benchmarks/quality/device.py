"""What a laboratory computes on: the CPU, or a card."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """A device, by the name of ``train.device`` and the name of its maker."""

    kind: str  # cpu or cuda
    name: str  # of the processor or the card

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that keep a command on the CPU of a machine with a card, evaluations included."""
        return {"CUDA_VISIBLE_DEVICES": ""} if self.kind == "cpu" else {}

    def protocol_name(self, *, by_time: bool) -> str:
        """Return what runs must share: the card; the processor only where steps follow from its speed."""
        return self.name if self.kind == "cuda" or by_time else "any"


def find_device(wanted: str) -> Device:
    """Return the device: ``cpu``, ``cuda``, or with ``auto`` a card if there is one; SystemExit if there is none."""
    card = None if wanted == "cpu" else _card()
    if wanted == "cuda" and card is None:
        raise SystemExit("--device cuda: nvidia-smi names no card on this machine; use --device cpu")
    return Device("cuda", card) if card else Device("cpu", _processor())


def _card() -> str | None:
    """Return the name of the first card; asks the driver, since importing torch takes seconds."""
    if not shutil.which("nvidia-smi"):
        return None
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)
    names = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
    return names[0].strip() if names else None


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].split(': ')[1]}, {len(names)} cores" if names else "unknown"
