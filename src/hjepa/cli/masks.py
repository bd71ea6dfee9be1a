"""``hjepa masks`` on the command line."""

import json as jsonlib

from hjepa.cli.root import Settings, app


@app.command
def masks(
    *,
    grid: str = "14x14",
    steps: int = 200,
    batch: int = 256,
    seed: int = 0,
    json: bool = False,
    settings: Settings,
) -> None:
    """Show how a mask sampler covers a patch grid, and how many tokens it yields.

    Every setting of the section masking can be given, such as --masking.target_scale 0.1,0.2.

    Parameters
    ----------
    grid
        Patch grid as rows x columns, such as 14x14.
    steps
        Number of batches to sample.
    batch
        Number of images per batch. With --masking.contexts, each image has several masks.
    seed
        Random seed.
    json
        Print the statistics as JSON.
    """
    from hjepa.commands.masks import mask_statistics
    from hjepa.masking import draw

    statistics = mask_statistics(grid, options=settings, steps=steps, batch=batch, seed=seed)
    if json:
        print(jsonlib.dumps(statistics.to_json()))
        return
    print(draw(statistics))
