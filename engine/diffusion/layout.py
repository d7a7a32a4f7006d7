"""A model folder in the layout of `StableDiffusionPipeline`: what must be in it, and what cannot be used."""

from __future__ import annotations

from pathlib import Path

COMPONENTS = ("unet", "vae", "text_encoder")


class ModelError(ValueError):
    """A model that cannot be used, and what to do about it."""


def check_layout(folder: Path) -> None:
    """Refuse a folder that is not a complete `StableDiffusionPipeline` in safetensors.

    Raises:
        ModelError: names the first thing that is missing or not allowed.
    """
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} has no model_index.json; it must be a model in diffusers format")
    for part in (*COMPONENTS, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise ModelError(
                f"{folder} has no {part}/ folder; it must hold unet, vae, text_encoder, tokenizer and scheduler"
            )
    for part in COMPONENTS:
        if not list((folder / part).glob("*.safetensors")):
            pickled = sorted(
                p.name for p in (folder / part).iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".pkl", ".pth")
            )
            what = f"only pickled weights ({pickled[0]}), which are never loaded" if pickled else "no weights"
            raise ModelError(f"{folder / part} has {what}; convert the model to safetensors")
