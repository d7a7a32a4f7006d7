"""maskmine: pixel masks of a concept, mined out of a text-to-image diffusion model.

from engine import Labeller, Segmenter, open_labels
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.notebook.dataset import open_labels
    from engine.notebook.image_label import ImageLabel
    from engine.notebook.labeller import Labeller
    from engine.segmenter.segmenter import Segmenter

__all__ = ["ImageLabel", "Labeller", "Segmenter", "open_labels"]

_HOMES = {
    "ImageLabel": "engine.notebook.image_label",
    "Labeller": "engine.notebook.labeller",
    "Segmenter": "engine.segmenter.segmenter",
    "open_labels": "engine.notebook.dataset",
}


def __getattr__(name: str) -> Any:
    # Loaded late: torch takes seconds, and most jobs plan without it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
