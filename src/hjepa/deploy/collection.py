"""The images that are searched: an embedding file, or images that are embedded on the way, and their pictures."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hjepa.data.sources import FileSource, ImageSource, open_source
from hjepa.deploy.contact_sheet import Pictures
from hjepa.deploy.embed.loop import EmbedLoop
from hjepa.deploy.embed.plan import Plan
from hjepa.deploy.embeddings import Embeddings
from hjepa.deploy.encoders import PATCHES, OpenedEncoder
from hjepa.deploy.reading import file_named, read_once
from hjepa.errors import UserError
from hjepa.evaluation.features import side_by_side
from hjepa.files import shown


@dataclass(frozen=True)
class Collection:
    """Embeddings with what made them."""

    embeddings: Embeddings
    encoder: OpenedEncoder
    device: torch.device
    source: ImageSource | None  # None: only the embedding file is known

    def __post_init__(self) -> None:
        facts, name = self.embeddings.metadata, shown(self.embeddings.file)
        if facts["model"]["fingerprint"] != self.encoder.fingerprint:
            raise UserError(
                f"{name}: holds vectors of another model ({facts['model']['name']}, fingerprint "
                f"{facts['model']['fingerprint']}) than {self.encoder.name} ({self.encoder.fingerprint}); "
                f"embed the images again with hjepa embed {self.encoder.name}"
            )
        if facts["pooling"] == PATCHES:
            raise UserError(f"{name}: holds one vector per patch; embed the images with --pooling avg, last4 or grid4")

    @property
    def vectors(self) -> np.ndarray:
        """Return one vector per image [n, F]; those of several levels normalised and side by side."""
        levels = list(self.embeddings.levels.values())
        if len(levels) == 1:
            return levels[0]
        return side_by_side([torch.from_numpy(np.array(each)) for each in levels]).numpy()

    def pictures(self) -> Pictures:
        """Return the pictures of the images."""
        return Pictures(self.source or self._source_of_file(), str(self.embeddings.metadata["images"]["folder"]))

    def _source_of_file(self) -> ImageSource | None:
        """Return the images that an embedding file was made of, if its paths lead nowhere and they are unchanged."""
        known, paths = self.embeddings.metadata["images"], self.embeddings.paths
        remote = known["source"].startswith("hf:") and not Path(known["source"][3:]).exists()
        if remote or not paths or file_named(paths[0], str(known["folder"])) is not None:
            return None
        try:
            source = open_source(known["source"], self.encoder.channels, self.encoder.pages)
            return source if source.fingerprint() == known["fingerprint"] else None
        except UserError:
            return None

    def embed(self, source: ImageSource) -> np.ndarray:
        """Return the vectors [Q, F] of other images, made as those of the collection; NaN for unreadable ones."""
        plan = Plan({**self.embeddings.metadata, "part": {"number": 0, "of": 1, "first": 0, "count": len(source)}})
        loop = EmbedLoop(self.encoder, source, plan, self.device, workers=0)
        found = [loop.vectors_of(batch) for batch in plan.part.batches(int(plan.metadata["batch_size"]), 0)]
        levels = list(Embeddings(Path(), plan.metadata, np.concatenate(found), []).levels.values())
        return side_by_side([torch.from_numpy(each) for each in levels]).numpy()


def open_queries(files: list[str | os.PathLike[str]], encoder: OpenedEncoder) -> tuple[FileSource, list[str]]:
    """Return query images as a source, and the digests of their files; raises UserError for what cannot be read."""
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.is_file():
            raise UserError(f"--query {shown(path)}: no such file; pass an image file")
    source = FileSource("queries", paths, {}, encoder.channels)
    digests = []
    for index, path in enumerate(paths):
        read = read_once(source, index, encoder.prepare)
        if read.error:
            raise UserError(f"--query {shown(path)}: {read.error}")
        digests.append(read.content_hash)
    return source, digests


def option_named(error: UserError, option: str) -> UserError:
    """Return an error of writing embeddings under the option by which this command names the file."""
    text = str(error).replace("--out ", f"{option} ", 1)
    return UserError(text.replace("replace it with --overwrite", "replace it with hjepa embed ... --overwrite"))
