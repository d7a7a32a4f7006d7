"""The result of an evaluation as text for a terminal."""

from __future__ import annotations

from typing import Any


def format_report(result: dict[str, Any]) -> str:
    """A table of what `evaluate_run` returns, in percent as papers print them."""
    lines = [f"{result['concept']}: {result['images']} images compared at 128 x 128"]
    if result["images"]:
        lines += _format_masks(result)
    if boxes := result["box_iou"]:
        values = " and ".join(f"{_percent(boxes[name]).strip()} ({name})" for name in ("preliminary", "refined"))
        lines += ["", f"IoU of the boxes around the masks: {values}, mean of {boxes['images']} images with a box only"]
    absent = [f"{count} {name.replace('_', ' ')}" for name, count in result["missing"].items() if count]
    if absent:
        lines += ["", f"not compared: {', '.join(absent)}"]
    return "\n".join(lines)


def _format_masks(result: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"{'':<18}{'per image':>10}{'pooled':>10}",
        f"{'heatmap AUROC':<18}{_percent(result['auroc_mean'])}{_percent(result['auroc_pooled'])}",
        "",
        f"{'':<18}{'ACC':>10}{'IoU':>10}{'mIoU':>10}{'images':>10}",
    ]
    for name in ("preliminary", "refined"):
        if measures := result[name]:
            values = "".join(_percent(measures[key]) for key in ("acc", "iou", "miou"))
            lines.append(f"{name + ' masks':<18}{values}{measures['images']:>10}")
    return lines


def _percent(value: float | None) -> str:
    return f"{'-' if value is None else format(100 * value, '.2f'):>10}"
