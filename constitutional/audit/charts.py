"""Geometry of the report's charts, in SVG user units; the template only draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.audit.figures import Curve
from constitutional.audit.measures.records import CalibrationBin
from constitutional.records import Record

WIDTH, HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 12.0, 26.0


class Tick(Record):
    """A labelled place on an axis."""

    at: float
    label: str


class LineChart(Record):
    """A polyline with its axes."""

    title: str
    unit: str
    n: int
    points: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[float, ...] = ()
    """Where an upright line marks a step."""


class Bar(Record):
    """One bar of a histogram and the count above it."""

    x: float
    y: float
    width: float
    height: float
    count: int


class Histogram(Record):
    """Counts over [0, 1]."""

    n: int
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]


class Whisker(Record):
    """A point with its interval, upright, and the count beside it."""

    x: float
    y: float
    low: float
    high: float
    n: int


class Reliability(Record):
    """How often the judge is right at each confidence; on the diagonal it is as sure as it is right."""

    title: str
    n: int
    points: tuple[Whisker, ...]
    diagonal: tuple[float, float, float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def reliability_chart(bins: Sequence[CalibrationBin], title: str) -> Reliability:
    """Bins of confidence from 1/2 to 1 against the share that was right, from 0 to 1."""

    def x(confidence: float) -> float:
        return round(_LEFT + (confidence - 0.5) * 2 * (WIDTH - _LEFT - _RIGHT), 1)

    def y(share: float) -> float:
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    return Reliability(
        title=title,
        n=sum(b.right.n for b in bins),
        points=tuple(
            Whisker(
                x=x(b.mean_confidence),
                y=y(b.right.share),
                low=y(b.right.interval.low),
                high=y(b.right.interval.high),
                n=b.right.n,
            )
            for b in bins
        ),
        diagonal=(x(0.5), y(0.5), x(1.0), y(1.0)),
        x_ticks=tuple(Tick(at=x(c / 10), label=f"{10 * c}\u202f%") for c in range(5, 11)),
        y_ticks=tuple(Tick(at=y(share / 4), label=f"{25 * share}\u202f%") for share in range(5)),
    )


def line_chart(curve: Curve, title: str, *, marked: Sequence[int] = ()) -> LineChart:
    """A curve of at least one point; `marked` are steps of it to point out."""
    x_low, x_high = _spread(min(curve.steps), max(curve.steps))
    ticks = nice_ticks(min(curve.values), max(curve.values))
    y_low, y_high = _spread(min(ticks[0], *curve.values), max(ticks[-1], *curve.values))

    def x(step: float) -> float:
        return round(_LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    steps = [t for t in nice_ticks(min(curve.steps), max(curve.steps)) if t == int(t) and x_low <= t <= x_high]
    return LineChart(
        title=title,
        unit=curve.unit,
        n=len(curve.values),
        points=tuple((x(step), y(value)) for step, value in zip(curve.steps, curve.values, strict=True)),
        x_ticks=tuple(Tick(at=x(step), label=str(int(step))) for step in steps),
        y_ticks=tuple(Tick(at=y(value), label=f"{value:g}") for value in ticks),
        marks=tuple(x(step) for step in sorted(set(marked)) if x_low <= step <= x_high),
    )


def histogram_chart(counts: Sequence[int]) -> Histogram:
    """Bars of equal width over [0, 1], the highest as high as the chart."""
    inner, floor = WIDTH - 2 * _RIGHT, HEIGHT - _BOTTOM
    step, most = inner / len(counts), max(1, *counts)
    bars = []
    for i, count in enumerate(counts):
        height = round(count / most * (floor - _TOP - 10), 1)
        left = round(_RIGHT + i * step + 1, 1)
        bars.append(Bar(x=left, y=round(floor - height, 1), width=round(step - 2, 1), height=height, count=count))
    ticks = tuple(Tick(at=round(_RIGHT + i / 5 * inner, 1), label=f"{i / 5:g}") for i in range(6))
    return Histogram(n=sum(counts), bars=tuple(bars), x_ticks=ticks)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(first + 1, last) + 1)]


def _spread(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)
