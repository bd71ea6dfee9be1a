"""``hjepa evaluate`` on the command line."""

import json as jsonlib
from pathlib import Path

from hjepa.cli.root import app


@app.command
def evaluate(
    run: Path,
    *,
    train: str,
    test: str,
    protocols: str = "knn,linear",
    pooling: str = "avg",
    level: str = "last",
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Probe the encoder of a run on labelled images, with a random-init encoder and raw pixels as baselines.

    Parameters
    ----------
    run
        Folder of a run.
    train
        Labelled training images: a folder with one subfolder per class, a .csv file with the columns path and label,
        an .npz file, a .zip or .tar of class folders, hf:NAME, wds:PATTERN with .cls files, or a dataset such as
        cifar10:train, fashion-mnist:train or scenes:train.
    test
        Labelled test images of the same classes.
    protocols
        Comma-separated list: knn, knn-whitened (PCA whitening fitted on the training images), linear (linear probe),
        lowshot (10-shot linear probe, averaged over 10 random subsets).
    pooling
        Comma-separated list: avg (mean over all patch tokens, as published), last4 (the means of the last four blocks,
        concatenated), grid4 (4x4 average-pooled tokens, concatenated).
    level
        Which features to probe: last (tokens of the last block), the number of a level (0 is the finest), or all (all
        levels and the last block, L2-normalised and concatenated).
    max_train
        Maximum number of training images (evenly subsampled).
    max_test
        Maximum number of test images (evenly subsampled).
    seed
        Random seed for the validation split and the bootstrap.
    json
        Print the results as JSON.
    """
    from hjepa.commands import evaluate as evaluation
    from hjepa.evaluation import protocol
    from hjepa.terminal import EvaluationProgress, new_console, print_table

    console = new_console(to_stderr=json)
    with EvaluationProgress(console) as shown:
        result = evaluation.evaluate(
            run,
            train=train,
            test=test,
            protocols=protocols,
            poolings=pooling,
            level=level,
            max_train=max_train,
            max_test=max_test,
            seed=seed,
            progress=shown.on_line,
            on_images=shown.on_images,
        )
    if json:
        print(jsonlib.dumps(result.to_json()))
        return
    console.print()
    print_table(console, protocol.table(result.results))
    print(f"\n{result.conclusion}")
    if result.harm:
        print(f"\n{result.harm}")
    if (run / "report.html").is_file():
        print(f"report: {run / 'report.html'}")
