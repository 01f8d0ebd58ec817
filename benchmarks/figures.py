"""Line charts as SVG, which Markdown shows and no browser need make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 380, 300, 56, 34, 44
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
Points = Sequence[tuple[float, float]]


def log_log_svg(panels: Mapping[str, Mapping[str, Points]], x_title: str) -> str:
    """Panels side by side with logarithmic axes of their own, and one legend below.

    Args:
        panels: title of the panel -> name of the line -> points (x, y), all above 0.
        x_title: what x is.

    Raises:
        ValueError: there is no point, or a value is not above 0.
    """
    values = [v for points in _all_points(panels) for p in points for v in p]
    if not values or min(values) <= 0:
        raise ValueError(
            f"points must be above 0 on logarithmic axes, got {min(values, default='none')}"
        )
    axes = {
        title: (_Logarithmic(_values(lines, 0)), _Logarithmic(_values(lines, 1)))
        for title, lines in panels.items()
    }
    return _svg(panels, axes, x_title)


def lines_svg(panels: Mapping[str, Mapping[str, Points]], x_title: str, y_title: str) -> str:
    """Panels side by side with linear axes; they share that of y, whose title is above the first.

    Args:
        panels: title of the panel -> name of the line -> points (x, y).
        x_title: what x is.
        y_title: what y is.

    Raises:
        ValueError: there is no point.
    """
    values = [y for points in _all_points(panels) for _, y in points]
    if not values:
        raise ValueError("panels must have points, got none")
    shared = _Linear(values)
    axes = {title: (_Linear(_values(lines, 0)), shared) for title, lines in panels.items()}
    named = {f"{y_title}, {title}": lines for title, lines in panels.items()}
    return _svg(named, dict(zip(named, axes.values(), strict=True)), x_title)


def _all_points(panels: Mapping[str, Mapping[str, Points]]) -> list[Points]:
    return [points for lines in panels.values() for points in lines.values()]


def _values(lines: Mapping[str, Points], axis: int) -> list[float]:
    return [point[axis] for points in lines.values() for point in points]


class _Logarithmic:
    """An axis from one to another of 1, 2 and 5 times the powers of ten."""

    def __init__(self, values: list[float]) -> None:
        low, high = min(values), max(values)
        steps = [m * 10.0**e for e in range(_power(low) - 1, _power(high) + 2) for m in (1, 2, 5)]
        start = max(step for step in steps if step <= low)
        stop = min(step for step in steps if step >= high and step > start)
        self.ticks = [step for step in steps if start * 0.999 <= step <= stop * 1.001]

    def place(self, value: float, start: float, stop: float) -> float:
        """Where a value is, between the places of the axis' ends."""
        first, last = self.ticks[0], self.ticks[-1]
        return start + math.log(value / first) / math.log(last / first) * (stop - start)

    def label(self, value: float) -> str:
        return f"{value / 1e6:g} M" if value >= 1e6 else f"{value:,.10g}"


class _Linear:
    """An axis with some round ticks around the values."""

    def __init__(self, values: list[float]) -> None:
        low, high = min(values), max(values)
        rough = (high - low or abs(high) or 1.0) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        self.step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first, last = math.floor(low / self.step), math.ceil(high / self.step)
        self.ticks = [number * self.step for number in range(first, max(last, first + 1) + 1)]

    def place(self, value: float, start: float, stop: float) -> float:
        """Where a value is, between the places of the axis' ends."""
        first, last = self.ticks[0], self.ticks[-1]
        return start + (value - first) / (last - first) * (stop - start)

    def label(self, value: float) -> str:
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{value:,.{digits}f}"


Axes = tuple[_Logarithmic | _Linear, _Logarithmic | _Linear]


def _svg(panels: Mapping[str, Mapping[str, Points]], axes: Mapping[str, Axes], x_title: str) -> str:
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
        parts += _panel(title, x_title, lines, colours, axes[title])
        parts.append("</g>")
    for number, name in enumerate(names):
        x = LEFT + 100 * number
        parts.append(
            f'<rect x="{x}" y="{HEIGHT + 2}" width="12" height="12" {_fill(colours[name])}/>'
        )
        parts.append(f'<text x="{x + 18}" y="{HEIGHT + 12}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    title: str, x_title: str, lines: Mapping[str, Points], colours: Mapping[str, str], axes: Axes
) -> list[str]:
    x_axis, y_axis = axes
    right, floor = WIDTH - 20, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return x_axis.place(x, LEFT, right)

    def up(y: float) -> float:
        return y_axis.place(y, floor, TOP)

    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{escape(title)}</text>']
    for x in x_axis.ticks:
        parts.append(_stroke((across(x), TOP), (across(x), floor), "#ddd", 1))
        label = x_axis.label(x)
        parts.append(
            f'<text x="{across(x):.1f}" y="{floor + 16}" text-anchor="middle">{label}</text>'
        )
    for y in y_axis.ticks:
        parts.append(_stroke((LEFT, up(y)), (right, up(y)), "#ddd", 1))
        label = y_axis.label(y)
        parts.append(f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{label}</text>')
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


def _power(value: float) -> int:
    return math.floor(math.log10(value))


def _stroke(a: tuple[float, float], b: tuple[float, float], colour: str, width: int) -> str:
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _fill(colour: str) -> str:
    return f'fill="{colour}"'
