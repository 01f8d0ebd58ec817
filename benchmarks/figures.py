"""Line charts with logarithmic axes as SVG, which Markdown shows and no browser need make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 380, 300, 56, 34, 44
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
Points = Sequence[tuple[float, float]]


def log_log_svg(panels: Mapping[str, Mapping[str, Points]], x_title: str) -> str:
    """Panels side by side, one line for each name, with one legend below.

    Args:
        panels: title of the panel -> name of the line -> points (x, y), all above 0.
        x_title: what x is.

    Raises:
        ValueError: there is no point, or a value is not above 0.
    """
    values = [
        v for lines in panels.values() for points in lines.values() for p in points for v in p
    ]
    if not values or min(values) <= 0:
        raise ValueError(
            f"points must be above 0 on logarithmic axes, got {min(values, default='none')}"
        )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    width, height = WIDTH * len(panels), HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({number * WIDTH} 0)">')
        parts += _panel(title, x_title, lines, colours)
        parts.append("</g>")
    for number, name in enumerate(names):
        x = LEFT + 100 * number
        parts.append(
            f'<rect x="{x}" y="{HEIGHT + 2}" width="12" height="12" {_fill(colours[name])}/>'
        )
        parts.append(f'<text x="{x + 18}" y="{HEIGHT + 12}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    title: str, x_title: str, lines: Mapping[str, Points], colours: Mapping[str, str]
) -> list[str]:
    xs = _range([x for points in lines.values() for x, _ in points])
    ys = _range([y for points in lines.values() for _, y in points])
    right, floor = WIDTH - 20, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return _place(x, xs, LEFT, right)

    def up(y: float) -> float:
        return _place(y, ys, floor, TOP)

    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{escape(title)}</text>']
    for x in _ticks(xs):
        parts.append(_stroke((across(x), TOP), (across(x), floor), "#ddd", 1))
        parts.append(
            f'<text x="{across(x):.1f}" y="{floor + 16}" text-anchor="middle">{_label(x)}</text>'
        )
    for y in _ticks(ys):
        parts.append(_stroke((LEFT, up(y)), (right, up(y)), "#ddd", 1))
        parts.append(
            f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{_label(y)}</text>'
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{floor + 34}" text-anchor="middle">{escape(x_title)}</text>'
    )
    for name, points in lines.items():
        placed = [(across(x), up(y)) for x, y in sorted(points)]
        parts += [_stroke(a, b, colours[name], 2) for a, b in pairwise(placed)]
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {_fill(colours[name])}/>' for x, y in placed
        ]
    return parts


def _range(values: list[float]) -> tuple[float, float]:
    """Ends of an axis: the next 1, 2 or 5 times a power of ten on both sides."""
    low, high = min(values), max(values)
    steps = [m * 10.0**e for e in range(_power(low) - 1, _power(high) + 2) for m in (1, 2, 5)]
    start = max(step for step in steps if step <= low)
    return start, min(step for step in steps if step >= high and step > start)


def _ticks(ends: tuple[float, float]) -> list[float]:
    steps = [m * 10.0**e for e in range(_power(ends[0]), _power(ends[1]) + 1) for m in (1, 2, 5)]
    return [step for step in steps if ends[0] * 0.999 <= step <= ends[1] * 1.001]


def _power(value: float) -> int:
    return math.floor(math.log10(value))


def _place(value: float, ends: tuple[float, float], start: float, stop: float) -> float:
    share = math.log(value / ends[0]) / math.log(ends[1] / ends[0])
    return start + share * (stop - start)


def _label(value: float) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value:,.10g}"


def _stroke(a: tuple[float, float], b: tuple[float, float], colour: str, width: int) -> str:
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _fill(colour: str) -> str:
    return f'fill="{colour}"'
