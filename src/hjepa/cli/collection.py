"""The options that choose the vectors of a collection, shared by search, duplicates and map."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class CollectionOptions:
    """The vectors of a collection.

    Parameters
    ----------
    vectors
        File (.npy, .parquet or .csv) in which the vectors of IMAGES are kept, and found again next time.
    pooling
        Pooling of the vectors, as for hjepa embed.
    level
        Level of the vectors, as for hjepa embed; with all, the similarity is the mean over the levels.
    """

    vectors: Path | None = None
    pooling: str | None = None
    level: str | None = None
