"""The plots of the report: inline SVG, readable in light and dark mode and without colour.

Everything goes through ``matplotlib.figure.Figure``, so no window system, no pyplot state and no
lasting global setting is touched. The same numbers give the same bytes.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]  # measure -> values [n], NaN where nothing was logged

# Colours in light mode. In the SVG each becomes ``var(--plot-NAME, colour)``, so that the page's
# style sheet can replace it in dark mode.
COLOURS = {
    "ink": "#1f2329",
    "soft": "#59636f",
    "grid": "#dfe3e8",
    "a": "#0b62a8",
    "b": "#b4530b",
    "c": "#1a7f38",
}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # distinguish curves without colour, in the order of COLOURS a, b, c
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hjepa report",
    "text.parse_math": False,  # labels come from users: a dollar sign is a dollar sign
    "font.size": 8.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.edgecolor": COLOURS["soft"],
    "axes.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
}
WIDTH = 4.5  # inches; the page scales the picture to its column
MOST_BINS = 300  # a curve keeps the lowest and the highest point of each bin: spikes survive thinning


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its series with their legend labels, and the label of the vertical axis."""

    series: tuple[tuple[str, str], ...]  # (key in metrics.jsonl, label in the legend)
    axis: str
    log: bool = False
    from_zero: bool = True
    reference: float | None = None


@dataclass(frozen=True)
class Curve:
    """One plot of the report, with a sentence that describes what healthy looks like."""

    name: str
    title: str
    healthy: str
    panels: tuple[Panel, ...]


CURVES = (
    Curve(
        "content-linear",
        "Image content predicted by a linear map",
        "Healthy: it rises above the value before training. Image content means gradients and colours on a coarse "
        "grid, so no labels are needed.",
        (Panel((("content_linear", "now"), ("content_linear_at_start", "before training")), "share", from_zero=False),),
    ),
    Curve(
        "content-neighbours",
        "Image content predicted by nearest neighbours",
        "Healthy: it rises above the value before training. It falls below if features spread without gaining "
        "information.",
        (
            Panel(
                (("content_neighbours", "now"), ("content_neighbours_at_start", "before training")),
                "share",
                from_zero=False,
            ),
        ),
    ),
    Curve(
        "loss",
        "Loss and two trivial baselines",
        "Healthy: the loss stays below both baselines, which always predict an average; it usually falls and "
        "then rises, because the targets get richer, so it does not measure success.",
        (
            Panel(
                (
                    ("loss", "loss"),
                    ("loss_mean_token", "predicting the mean token"),
                    ("loss_position_mean", "predicting the mean at each position"),
                ),
                "loss",
            ),
        ),
    ),
    Curve(
        "relative-loss",
        "Loss relative to the position baseline",
        "Healthy: clearly below 1 and staying there; at 1 (dashed), predictions are no better than the mean at "
        "each position.",
        (Panel((("relative_loss", "relative loss"),), "loss / baseline", reference=1.0),),
    ),
    Curve(
        "effective-rank",
        "Effective rank",
        "Healthy: it rises and then stays high; a drop towards 1 means that the encoder gives all images "
        "nearly the same features.",
        (Panel((("effective_rank", "effective rank"),), "dimensions used"),),
    ),
    Curve(
        "spread",
        "Spread of targets and predictions",
        "Healthy: both stay well above zero, and predictions do not vary much less than targets.",
        (Panel((("target_std", "targets"), ("prediction_std", "predictions")), "standard deviation"),),
    ),
    Curve(
        "cross-sample-gap",
        "Cross-sample gap, and variance explained by position",
        "Healthy: the gap is above zero and growing, which means that a prediction matches its own image "
        "better than another image at the same position; with a gap of zero, or if position explains all of "
        "the target variance, only position is predicted.",
        (
            Panel((("cross_sample_gap", "gap"),), "gap", reference=0.0),
            Panel((("position_share", "fraction of target variance explained by position"),), "fraction"),
        ),
    ),
    Curve(
        "teacher-distance",
        "Distance between teacher and student",
        "Healthy: smooth, and shrinking towards the end of the run; a sudden jump means that the student has "
        "moved far from its teacher.",
        (Panel((("teacher_distance", "distance"),), "distance"),),
    ),
    Curve(
        "schedules",
        "Momentum, learning rate, weight decay",
        "Healthy: exactly the configured schedules, without a jump after a resume.",
        (
            Panel((("momentum", "momentum"),), "momentum", from_zero=False),
            Panel((("lr", "learning rate"),), "learning rate"),
            Panel((("weight_decay", "weight decay"),), "weight decay"),
        ),
    ),
    Curve(
        "speed",
        "Throughput, and time spent waiting for data",
        "Healthy: constant throughput and almost no waiting; a large fraction of waiting means that data loading "
        "is the bottleneck.",
        (
            Panel((("images_per_second", "images per second"),), "images/s"),
            Panel((("data_wait", "fraction of time waiting"),), "fraction"),
        ),
    ),
    Curve(
        "grad-norm",
        "Gradient norm",
        "Healthy: it settles at a constant level, and single spikes are harmless; a steady increase (mind the "
        "logarithmic axis) indicates divergence.",
        (Panel((("grad_norm", "gradient norm"),), "norm", log=True),),
    ),
)


def level_curves(levels: int) -> tuple[Curve, ...]:
    """Return the curves of a run with several levels, a panel for each, finest first."""

    def panels(key: str, reference: float | None = None) -> tuple[Panel, ...]:
        one = [((f"level {number} {key}", f"level {number}"),) for number in range(levels)]
        return tuple(Panel(series, f"level {number}", reference=reference) for number, series in enumerate(one))

    if levels < 2:
        return ()
    return (
        Curve(
            "level-gap",
            "Cross-sample gap of each level",
            "Healthy: above zero (dashed) and growing on every level; level 0, the finest, often grows first.",
            panels("cross_sample_gap", reference=0.0),
        ),
        Curve(
            "level-spread",
            "Spread of the targets of each level",
            "Healthy: well above zero on every level; near zero, the targets are the same for all images.",
            panels("target_std"),
        ),
    )


@dataclass(frozen=True)
class Dot:
    """A value in per cent with its interval, both ``None`` when not measured."""

    value: float | None
    interval: tuple[float, float] | None = None


def curve_svg(curve: Curve, columns: Columns, changes: Sequence[tuple[int, float]]) -> Markup | None:
    """Draw one curve against the step, or return ``None`` when none of its measures was logged.

    ``changes`` are the verdict changes as (number on the page, step), drawn as numbered lines.
    """
    panels = [panel for panel in curve.panels if any(_has_values(columns, key) for key, _ in panel.series)]
    if not panels:
        return None
    height = 2.3 if len(panels) == 1 else 0.55 + 0.95 * len(panels)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, height))
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw_panel(axes, panel, columns)
            _draw_changes(axes, changes, numbered=panel is panels[0])
        above = 0.2  # inches: the numbers of verdict changes
        if len(panels) == 1 and len(panels[0].series) > 1:
            figure.legend(loc="upper left", ncols=2, borderpad=0.0, borderaxespad=0.3, columnspacing=1.2)
            above += 0.14 * math.ceil(len(panels[0].series) / 2)
        grid[-1, 0].set_xlabel("step")
        # Margins by hand: nine pictures that measure their own text (layout="constrained") take seconds a page.
        figure.subplots_adjust(
            left=0.75 / WIDTH, right=1 - 0.12 / WIDTH, bottom=0.42 / height, top=1 - above / height, hspace=0.22
        )
        summary = f"{curve.title}, by step. " + " ".join(_in_words(panel, columns) for panel in panels)
        return _svg(figure, curve.name, summary)


def results_svg(rows: Sequence[tuple[str, Mapping[str, Dot]]]) -> Markup:
    """Draw each evaluation as one line of dots with intervals.

    ``rows`` are (label, {series name: dot}); the first series name is the pretrained encoder, and
    the series ``chance`` is drawn as a thin bar.
    """
    names = list(dict.fromkeys(name for _, dots in rows for name in dots))
    with matplotlib.rc_context(STYLE):
        figure = Figure((1.2 * WIDTH, 0.8 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(names):
            _draw_dots(axes, name, index, [dots.get(name, Dot(None)) for _, dots in rows])
        axes.set_yticks(range(len(rows)), [_shortened(label) for label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("accuracy, per cent")
        figure.legend(loc="outside upper left", ncols=max(1, len(names)), borderpad=0.0, handletextpad=0.2)
        return _svg(figure, "results", "Accuracy with intervals; all numbers are in the table next to this plot.")


def _has_values(columns: Columns, key: str) -> bool:
    return key in columns and bool(np.isfinite(columns[key]).any())


def _draw_panel(axes: Axes, panel: Panel, columns: Columns) -> None:
    if panel.log and any((columns[key] > 0).any() for key, _ in panel.series):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    if panel.reference is not None:
        axes.axhline(panel.reference, color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (3, 2)))
    for (key, label), name, dash in zip(panel.series, "abc", DASHES, strict=False):
        if _has_values(columns, key):
            # Slow measures are taken on some steps only: the line joins the steps that have a value.
            known = np.isfinite(columns[key])
            steps, values = _thinned(columns["step"][known], columns[key][known])
            marker = "o" if len(values) <= 2 else ""  # one or two points make no visible line
            axes.plot(steps, values, color=COLOURS[name], linestyle=dash, marker=marker, markersize=4, label=label)
    lowest, highest = axes.get_ylim()
    if panel.from_zero and not panel.log and lowest > 0:
        axes.set_ylim(0, highest)
    axes.set_ylabel(panel.axis)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw_changes(axes: Axes, changes: Iterable[tuple[int, float]], *, numbered: bool) -> None:
    left, right = axes.get_xlim()
    last_number = -np.inf
    for number, step in changes:
        axes.axvline(step, color=COLOURS["soft"], linewidth=0.8, linestyle=(0, (2, 2)))
        # Numbers closer than 4 % of the axis would print over each other; the lines remain.
        if numbered and step - last_number >= 0.04 * (right - left):
            axes.text(step, 1.02, str(number), transform=axes.get_xaxis_transform(), ha="center", va="bottom")
            last_number = step


def _draw_dots(axes: Axes, name: str, index: int, dots: Sequence[Dot]) -> None:
    """Draw one series; series differ in shape, filling and height as well as in colour."""
    colour = COLOURS["abc"[index % 3]] if name != "chance" else COLOURS["soft"]
    marker = "|" if name == "chance" else "osD^v"[index % 5]
    shift = 0.0 if name == "chance" else (-0.18, 0.0, 0.18)[index % 3]
    for y, dot in enumerate(dots):
        if dot.interval is not None:
            # Narrow intervals would hide under their dot: the ends get bars of their own.
            axes.plot(dot.interval, (y + shift, y + shift), color=colour, linewidth=1.0, marker="|", markersize=6)
    axes.plot(
        [np.nan if dot.value is None else dot.value for dot in dots],
        [y + shift for y in range(len(dots))],
        linestyle="none",
        marker=marker,
        markersize=6 if name == "chance" else 4,
        color=colour,
        markerfacecolor=colour if index == 0 else "none",
        label=name,
    )


def _thinned(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep the lowest and the highest point of each of ``MOST_BINS`` bins."""
    if len(values) <= 2 * MOST_BINS:
        return steps, values
    kept = [0, len(values) - 1]
    for part in np.array_split(np.arange(len(values)), MOST_BINS):
        kept += [int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])]
    order = sorted(set(kept))
    return steps[order], values[order]


def _in_words(panel: Panel, columns: Columns) -> str:
    """Describe the curves of a panel in numbers, for screen readers."""
    sentences = []
    for key, label in panel.series:
        if _has_values(columns, key):
            known = columns[key][np.isfinite(columns[key])]
            sentences.append(
                f"{label}: first {known[0]:.4g}, last {known[-1]:.4g}, lowest {known.min():.4g}, "
                f"highest {known.max():.4g}."
            )
    return " ".join(sentences)


def _shortened(label: str, most: int = 44) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _svg(figure: Figure, name: str, summary: str) -> Markup:
    """Return the figure as an ``<svg>`` element to stand inside a page, with its title for screen readers."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text, so the reader's browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)  # savefig draws twice
    svg = buffer.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would style the whole page
    body = re.sub(r"font-family: [^;\"]*;?\s?", "", body)  # the page's font
    # One page holds many pictures: names must stay unique.
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for colour_name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--plot-{colour_name}, {colour})")
    width, height = figure.get_size_inches() * 72
    head = (
        f'<svg class="plot" role="img" aria-labelledby="{name}-title" viewBox="0 0 {width:g} {height:g}">'
        f'<title id="{name}-title">{escape(summary)}</title>'
    )
    return Markup(head + body)
