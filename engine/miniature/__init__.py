"""The bundled miniature: a procedural world of scenes with exact masks, a small model trained on it, a small corpus.

Nothing here imports the rest of the package, and nothing of the labelling path knows that it exists: the names
``--model miniature`` and ``--input miniature`` stand for the folders below.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def model_path() -> Path:
    """Folder of the bundled model, in diffusers format."""
    return _HERE / "model"


def features_path() -> Path:
    """The bundled feature network of the scenes, an ONNX file (see `engine.miniature.features`)."""
    return _HERE / "features.onnx"


def corpus_url(concept: str) -> str:
    """Folder of the bundled scenes that show the concept; of all scenes if there is none for it alone."""
    corpus = _HERE / "corpus"
    return str(corpus / concept if concept in {path.name for path in corpus.iterdir()} else corpus)
