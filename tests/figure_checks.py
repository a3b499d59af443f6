"""Checks that every figure passes: colors, names and units of axes, tick labels, legends."""

import re
from itertools import combinations
from typing import Any

from matplotlib.colors import to_hex

UNIT = re.compile(
    r"\(.+\)$|^number of \w+$|^optimizer step$|nats per|^(training )?(parameters|tokens|molecules|atoms|FLOPs)"
)


def check_figure(figure: Any) -> None:
    """Check a figure as it will be drawn."""
    figure.canvas.draw()
    for axis in figure.axes:
        curves = [line for line in axis.get_lines() if len(line.get_xdata()) > 2 and line.get_linestyle() != "None"]
        named = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
        for lines in (curves, named):
            colors = [to_hex(line.get_color()) for line in lines]
            assert len(set(colors)) == len(colors), f"curves share a color: {colors}"
        for scale in (axis.xaxis, axis.yaxis):
            name = scale.get_label().get_text()
            assert UNIT.search(name), f"an axis without a unit: {name!r}"
            labels = [text for text in scale.get_ticklabels(which="both") if text.get_visible() and text.get_text()]
            low, high = sorted(scale.get_view_interval())
            places = [text.get_position()[0 if scale is axis.xaxis else 1] for text in labels]
            shown = [text for text, place in zip(labels, places) if low <= place <= high]
            assert len(shown) > 1, f"one tick of {name} has a label, or none"
            for first, second in combinations(shown, 2):
                boxes = first.get_window_extent(), second.get_window_extent()
                assert not boxes[0].overlaps(boxes[1]), f"ticks of {name}: {first.get_text()} {second.get_text()}"
        legend = axis.get_legend()
        if legend is None:
            assert len(named) < 2, "curves without a legend"
            continue
        box, frame = legend.get_window_extent(), axis.get_window_extent()
        assert box.x0 >= frame.x1, "a legend inside its axes"
        assert box.x1 <= figure.bbox.x1 + 1 and box.y0 >= figure.bbox.y0 - 1, "a legend is cut off"
        for other in figure.axes:
            assert other is axis or not box.overlaps(other.get_tightbbox()), "a legend over other axes"
