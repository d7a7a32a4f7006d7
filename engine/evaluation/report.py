"""The result of an evaluation as text for a terminal."""

from __future__ import annotations

from typing import Any

MISSING = {
    "rows_without_truth": "labels without ground truth",
    "truth_without_row": "images with ground truth and without a label",
    "no_truth": "images of the corpus without ground truth",
    "bad_truth": "images with ground truth that cannot be used",
    "shards_without_row": "tars without labels",
}
"""What is not compared, for a person."""


def format_report(result: dict[str, Any]) -> str:
    """A table of what `evaluate_run` returns, in percent as papers print them."""
    lines = [f"{result['concept']}: {result['images']} images compared at 128 x 128"]
    if result["images"]:
        lines += _format_masks(result)
    if boxes := result["box_iou"]:
        values = " and ".join(f"{_percent(boxes[name]).strip()} ({name})" for name in ("preliminary", "refined"))
        lines += ["", f"IoU of the boxes around the masks: {values}, mean of {boxes['images']} images with a box only"]
    absent = [f"{count} {MISSING[name]}" for name, count in result["missing"].items() if count]
    if absent:
        lines += ["", f"not compared: {', '.join(absent)}"]
    return "\n".join(lines)


def compare_concepts(results: list[dict[str, Any]], not_compared: dict[str, str]) -> dict[str, Any]:
    """The results of several concepts by name, and the mean of their IoU; None where one has none.

    Args:
        not_compared: why other concepts have no result.
    """

    def mean(masks: str) -> float | None:
        values = [(result[masks] or {}).get("iou") for result in results]
        known = [value for value in values if value is not None]
        return sum(known) / len(values) if len(known) == len(values) else None

    means = {name: mean(name) for name in ("preliminary", "refined")}
    by_name = {result["concept"]: result for result in results}
    return {"concepts": by_name, "not_compared": not_compared, "mean_iou": means}


def format_mean(whole: dict[str, Any]) -> str:
    """The means of `compare_concepts`, for a terminal."""
    values = ", ".join(f"{name} {_percent(value).strip()}" for name, value in whole["mean_iou"].items())
    return f"mean IoU of {len(whole['concepts'])} concepts, images without one of them included: {values}"


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
    if result["refined"]:
        lines += [
            "",
            "preliminary masks: as they were painted over, before any was called absent or shared its pixels",
        ]
    return lines


def _percent(value: float | None) -> str:
    return f"{'-' if value is None else format(100 * value, '.2f'):>10}"
