"""How a mask sampler covers a grid: how often each patch is visible or predicted, token counts, pictures."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hjepa.masking.multiblock import Masks, MaskSampler

SHADES = " ░▒▓█"
EXAMPLES = 4
TIMED_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Statistics of a sampler over ``steps`` batches of ``batch`` images; ranges are (lowest, highest)."""

    grid: tuple[int, int]
    steps: int
    batch: int
    context: NDArray[np.float64] = field(repr=False)  # [GH, GW] probability that a patch is visible
    target: NDArray[np.float64] = field(repr=False)  # [GH, GW] probability that some block predicts it
    context_tokens: float  # V, mean over steps
    context_tokens_range: tuple[int, int]
    target_tokens: float  # T of one block, mean over steps
    target_tokens_range: tuple[int, int]
    target_union: float  # different patches in the K blocks of an image, mean
    target_union_range: tuple[int, int]
    microseconds_per_image: float  # median, on the machine and threads of this call
    examples: Masks = field(repr=False)  # the first images of step 0

    @property
    def context_coverage_min(self) -> float:
        """Return the probability of the least seen patch."""
        return float(self.context.min())

    @property
    def target_coverage_min(self) -> float:
        """Return the probability of the least predicted patch."""
        return float(self.target.min())

    def to_json(self) -> dict[str, object]:
        """Return what ``hjepa masks --json`` prints; shares are of the patches of the grid."""
        patches = self.grid[0] * self.grid[1]
        return {
            "grid": list(self.grid),
            "context_tokens": self.context_tokens,
            "target_tokens": self.target_tokens,
            "context_coverage_min": self.context_coverage_min,
            "target_coverage_min": self.target_coverage_min,
            "microseconds_per_image": self.microseconds_per_image,
            "context_tokens_range": list(self.context_tokens_range),
            "target_tokens_range": list(self.target_tokens_range),
            "target_union": self.target_union,
            "target_union_range": list(self.target_union_range),
            "context_share": self.context_tokens / patches,
            "target_union_share": self.target_union / patches,
            "steps": self.steps,
            "batch": self.batch,
        }


def coverage(sampler: MaskSampler, grid: tuple[int, int], *, steps: int = 100, batch: int = 256) -> Coverage:
    """Measure ``sampler`` on ``grid`` over steps 0 .. ``steps`` - 1, its speed in this process included."""
    patches = grid[0] * grid[1]
    seen, predicted = np.zeros(patches), np.zeros(patches)
    context_tokens, target_tokens, unions = [], [], []
    for step in range(steps):
        masks = sampler.sample(step, batch)
        seen += np.bincount(masks.context.ravel(), minlength=patches)
        in_blocks = np.zeros((batch, patches), dtype=np.bool_)
        in_blocks[np.arange(batch)[:, None, None], masks.targets] = True
        predicted += in_blocks.sum(axis=0)
        unions.append(in_blocks.sum(axis=1))
        context_tokens.append(masks.context.shape[1])
        target_tokens.append(masks.targets.shape[2])
    return Coverage(
        grid=grid,
        steps=steps,
        batch=batch,
        context=(seen / (steps * batch)).reshape(grid),
        target=(predicted / (steps * batch)).reshape(grid),
        context_tokens=float(np.mean(context_tokens)),
        context_tokens_range=(min(context_tokens), max(context_tokens)),
        target_tokens=float(np.mean(target_tokens)),
        target_tokens_range=(min(target_tokens), max(target_tokens)),
        target_union=float(np.mean(unions)),
        target_union_range=(int(np.min(unions)), int(np.max(unions))),
        microseconds_per_image=_microseconds(sampler, min(steps, TIMED_STEPS), batch),
        examples=sampler.sample(0, batch, slice(EXAMPLES)),
    )


def _microseconds(sampler: MaskSampler, steps: int, batch: int) -> float:
    """Return the median time per image of steps drawn before, so that no step prepares a new block size."""
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        sampler.sample(step, batch)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / batch * 1e6


def draw(coverage: Coverage) -> str:
    """Return both maps side by side for a terminal; darker is more often, scaled to each map's highest."""
    maps = {"visible": coverage.context, "predicted": coverage.target}
    width = max(2 * coverage.grid[1], 24)
    titles, panels = [], []
    for name, map_ in maps.items():
        titles.append(f"{name} {map_.min():.1%} to {map_.max():.1%}".ljust(width))
        # Only a patch that is never used stays blank: ceil takes the smallest probability to the first shade.
        level = np.ceil(map_ / max(map_.max(), 1e-12) * (len(SHADES) - 1)).astype(int)
        panels.append(["".join(SHADES[cell] * 2 for cell in row).ljust(width) for row in level])
    lines = ["  ".join(titles), *("  ".join(pair) for pair in zip(*panels, strict=True))]
    return "\n".join(line.rstrip() for line in lines)


def svg(coverage: Coverage) -> str:
    """Return both maps and example masks as one inline SVG with nothing fetched from elsewhere."""
    rows, columns = coverage.grid
    big, small = max(4, 168 // max(rows, columns)), max(2, 84 // max(rows, columns))
    gap, title = 16, 18
    step_big, step_small = max(columns * big, 168) + gap, max(columns * small, 84) + gap
    second_row = title + rows * big + gap
    parts = []
    maps = (
        ("Visible (context)", coverage.context, (29, 91, 163)),
        ("Predicted (target)", coverage.target, (176, 74, 16)),
    )
    for place, (name, map_, ink) in enumerate(maps):
        label = f"{name}: {map_.min():.1%} to {map_.max():.1%}"
        colours = [[_tint(share, ink) for share in row] for row in map_ / max(map_.max(), 1e-12)]
        parts.append(_panel(label, colours, place * step_big, 0, big))
    context, targets = coverage.examples.context, coverage.examples.targets
    for place in range(len(context)):
        cells = np.full(rows * columns, "#e9e9ec", dtype=object)
        cells[context[place]] = _tint(0.75, maps[0][2])
        cells[targets[place].ravel()] = _tint(0.75, maps[1][2])
        colours = cells.reshape(rows, columns).tolist()
        parts.append(_panel(f"Image {place + 1}", colours, place * step_small, second_row, small))
    width = max(len(maps) * step_big, len(context) * step_small) - gap
    height = second_row + title + rows * small
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="sans-serif" font-size="11" fill="#333">'
    )
    name = f"<title>Mask coverage of a {rows}x{columns} grid</title>"
    return "\n".join([opening, name, *parts, "</svg>"])


def _panel(label: str, colours: list[list[str]], x: int, y: int, side: int) -> str:
    """Return a labelled grid of squares of ``side`` pixels with its upper left corner at (x, y)."""
    squares = [
        f'<rect x="{x + column * side}" y="{y + 18 + row * side}" width="{side}" height="{side}" '
        f'fill="{colour}" stroke="#fff" stroke-width="0.5"/>'
        for row, line in enumerate(colours)
        for column, colour in enumerate(line)
    ]
    return f'<g><text x="{x}" y="{y + 12}">{label}</text>' + "".join(squares) + "</g>"


def _tint(share: float, ink: tuple[int, int, int]) -> str:
    """Return the colour ``share`` of the way from white to ``ink``; a share of 0 is a clear grey."""
    if share == 0:
        return "#d0d0d0"
    red, green, blue = (round(255 + share * (channel - 255)) for channel in ink)
    return f"#{red:02x}{green:02x}{blue:02x}"
