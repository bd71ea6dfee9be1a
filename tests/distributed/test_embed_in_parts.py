"""Two processes embed a part each, into one folder; together the parts are the file of one process."""

import numpy as np
import pytest
from commands import call
from deployed import write_encoder, write_images
from launchers import launch

import hjepa

WORDS = ("--batch-size", 4, "--precision", "float32")


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "ending"), [("torchrun", "parquet"), ("torchrun", "npy"), ("torchrun", "csv")])
def test_two_processes_equal_one(launcher, ending, tmp_path):
    run, photos = write_encoder(tmp_path / "run"), write_images(tmp_path / "photos", 19)
    (photos / "0014.png").write_bytes(b"no image")
    one = hjepa.embed(run, photos, out=tmp_path / f"one.{ending}", batch_size=4, precision="float32")
    out = tmp_path / f"two.{ending}"
    done = launch(launcher, out, "embed", run, photos, *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.iterdir() if path.name.endswith(f".{ending}")) == [
        f"part-00000-of-00002.{ending}", f"part-00001-of-00002.{ending}",
    ]  # fmt: skip
    assert "rank 1: unreadable 1 of 11 images" in done.stdout + done.stderr
    two = hjepa.open_embeddings(out)
    assert np.array_equal(one.flat, two.flat, equal_nan=True) and one.images == two.images
    if ending == "parquet":
        from pyarrow import dataset, parquet

        assert (
            dataset.dataset(out)
            .to_table()
            .drop_columns("vector")
            .equals(parquet.read_table(tmp_path / "one.parquet").drop_columns("vector"))
        )
        alone = call("embed", run, photos, "--out", out, *WORDS)
        assert alone.returncode == 2 and "this is a folder" in alone.stderr
        (out / "part-00001-of-00002.parquet").rename(tmp_path / "lost")
        with pytest.raises(hjepa.UserError, match="1 of 2 parts are there"):
            hjepa.open_embeddings(out)
