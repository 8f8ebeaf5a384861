"""Plots of a run. The only place that imports matplotlib, which is an extra: without it a run says how to get it, and goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["MISSING", "bars", "curves", "possible"]

MISSING = "no plot: matplotlib is not installed; cure: pip install 'hpcdl[bench]'"
Points = Sequence[tuple[float, float]]


def possible(path: Path | None) -> bool:
    """Whether a plot is wanted and can be made; says so in one line where it is wanted and cannot."""
    if path is None:
        return False
    if find_spec("matplotlib") is None:
        print(MISSING)
        return False
    return True


def curves(
    path: Path, title: str, series: Mapping[str, Points], bounds: Mapping[str, Points], unit: str = "GB/s", across: str = "bytes"
) -> None:
    """Bandwidth over size, or `unit` over `across`, on log axes: each series a line with its points, each bound a dashed line."""
    figure, axes = _figure(title)
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    for (name, points), style in zip(bounds.items(), ("--", ":", "-.") * len(bounds), strict=False):
        axes.plot(*zip(*points, strict=True), style, color="black", linewidth=1, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    axes.grid(True, which="both", alpha=0.2)
    _save(figure, axes, path)


def bars(path: Path, title: str, names: Sequence[str], parts: Mapping[str, Sequence[float]], unit: str, marks: Mapping[str, float]) -> None:
    """A bar a name, stacked from `parts`; each of `marks` is a dashed line across."""
    figure, axes = _figure(title)
    bottom = [0.0] * len(names)
    for part, heights in parts.items():
        axes.bar(names, heights, bottom=bottom, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for (name, height), style in zip(marks.items(), ("--", ":", "-.") * len(marks), strict=False):
        axes.axhline(height, linestyle=style, color="black", linewidth=1, label=name)
    axes.set_ylabel(unit)
    axes.tick_params(axis="x", labelrotation=20)
    _save(figure, axes, path)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # Why not pyplot: it would look for a display

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, format="png")
    print(f"plot: {path}")
