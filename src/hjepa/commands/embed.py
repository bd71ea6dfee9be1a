"""``hjepa embed``: the vectors of images as a file, resumable, on one process or many."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hjepa.data.sources import ImageSource, open_source
from hjepa.deploy.embed.loop import EmbedLoop, Progress
from hjepa.deploy.embed.output import Output, agreed_by_all, choose_output
from hjepa.deploy.embed.plan import Part, Plan, make_plan
from hjepa.deploy.embed.store import Row, read_rows
from hjepa.deploy.embeddings import Embeddings, read_part
from hjepa.deploy.encoders import Network, OpenedEncoder, open_encoder
from hjepa.deploy.reading import reading_threads
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.processes import rank, world_size
from hjepa.runs.run import Run
from hjepa.setup.machine import choose_device, choose_precision

PRECISIONS = ("auto", "float32", "bf16", "fp16")


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed, whoever asks for it."""

    pooling: str | None = None
    level: str | int = "last"
    network: Network = "target"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    overwrite: bool = False
    progress: Callable[[Progress], None] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Written:
    """What an embed command has done."""

    file: Path  # of this process
    plan: Plan
    unreadable: list[Row]
    progress: Progress | None  # None: the file was complete already


def embed(
    run: Run | str | os.PathLike[str],
    images: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    level: str | int = "last",
    network: Network = "target",
    precision: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Embeddings:
    """Embed images with the encoder of a run, or of timm, and return the vectors with what is known of each image.

    ``images`` is anything that ``hjepa.pretrain`` takes. With ``out`` (.npy, .parquet or .csv) the vectors are written
    there and, if it is a .npy file, mapped into memory; the same call continues after a kill. Without ``out`` they are
    held in memory only. Images that cannot be read have vectors of NaN and a reason in ``errors``.
    With several processes (torchrun), each returns its own part. Raises UserError in one line.
    """
    options = EmbedOptions(pooling, level, network, precision, batch_size, workers, overwrite, progress)
    if out is not None:
        return _reread(write_embeddings(run, images, out, options))
    with tempfile.TemporaryDirectory() as folder:
        found = _reread(write_embeddings(run, images, Path(folder) / "vectors.npy", options, in_memory=True))
        return replace(found, flat=np.array(found.flat))


def write_embeddings(
    run: Run | str | os.PathLike[str],
    images: Any,
    out: str | os.PathLike[str],
    options: EmbedOptions,
    *,
    in_memory: bool = False,
    encoder: OpenedEncoder | None = None,
) -> Written:
    """Write an embedding file, or continue one; ``encoder`` is RUN if it is open already.

    ``in_memory``: for this process alone, and only to be read back by it.

    Raises UserError in one line, before anything is written.
    """
    number, processes = (0, 1) if in_memory else (rank(), world_size())
    output, device = choose_output(out, number, processes), embed_device()
    encoder = encoder or open_encoder(run_path(run), device, network=_checked_network(options.network))
    source = open_source(images, encoder.channels, encoder.pages)
    plan = _plan(encoder, source, output, options, device, (number, processes))
    if not in_memory:
        output.form.refuse(plan)
    workers = reading_threads(options.workers)
    if output.prepare(plan, overwrite=options.overwrite):
        found = read_part(output.file, shown(output.file))
        return Written(output.file, Plan(found.metadata), [row for row in found.images if row.error], None)
    store = output.store(plan)
    with store.opened() as opened:
        progress = EmbedLoop(encoder, source, plan, device, workers, options.progress).run(opened)
        unreadable = [row for row in read_rows(store.paths.rows) if row.error and row.level == plan.levels[0]]
        if plan.part.count and len(unreadable) == plan.part.count:
            raise UserError(
                f"none of the {plan.part.count:,} images of {source.name} could be embedded; the first, "
                f"{unreadable[0].path}: {unreadable[0].error}"
            )
        plan = plan.completed(len(unreadable))
        output.form.finish(output.file, plan)
    return Written(output.file, plan, unreadable, progress)


def embed_device() -> torch.device:
    """Return the device of this process; of several GPUs, the one of its local rank."""
    device = choose_device("auto")
    if device.type == "cuda" and (local := os.environ.get("LOCAL_RANK")):
        return torch.device("cuda", int(local) % torch.cuda.device_count())
    return device


def run_path(run: Run | str | os.PathLike[str]) -> str:
    """Return RUN as text."""
    return os.fspath(run.path if isinstance(run, Run) else run)


def _plan(
    encoder: OpenedEncoder,
    source: ImageSource,
    output: Output,
    options: EmbedOptions,
    device: torch.device,
    process: tuple[int, int],
) -> Plan:
    # On a CPU activations that fit its caches are faster.
    fitting = 64 if device.type == "cpu" else 256
    batch_size = fitting if options.batch_size is None else options.batch_size
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    return make_plan(
        encoder,
        source,
        pooling=options.pooling,
        level=str(options.level),
        precision=_precision(options.precision, device, output, several=process[1] > 1),
        batch_size=batch_size,
        device=device,
        part=Part.of_rank(*process, len(source), batch_size),
    )


def _precision(wanted: str, device: torch.device, output: Output, *, several: bool) -> str:
    """Return the precision: as asked for, as in the file that is continued, or what suits the device."""
    if wanted not in PRECISIONS:
        raise UserError(f"--precision {wanted}: choose from {', '.join(PRECISIONS)}")
    if wanted == "auto" and (known := output.known_metadata()) is not None:
        return str(known["precision"])
    precision, _reason = choose_precision(wanted, device)
    return agreed_by_all(output.given, "precision", precision) if several and wanted == "auto" else precision


def _checked_network(network: str) -> Network:
    if network not in ("target", "context"):
        raise UserError(f"--network {network}: choose target or context")
    return "context" if network == "context" else "target"


def _reread(written: Written) -> Embeddings:
    return read_part(written.file, shown(written.file))
