"""A model folder in the layout of `StableDiffusionPipeline`: what must be in it, and what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMPONENTS = ("unet", "vae", "text_encoder")
OTHER_INPUTS = {
    "addition_embed_type": "is told more than the prompt, as those of SDXL",
    "class_embed_type": "is told a class, too",
    "num_class_embeds": "is told a class, too, as those of upscalers",
    "time_cond_proj_dim": "is told its guidance, as those of latent consistency models",
}
"""Settings of a U-Net by which it needs more than z_t, a timestep and a prompt."""


class ModelError(ValueError):
    """A model that cannot be used, and what to do about it."""


def check_layout(folder: Path) -> None:
    """Refuse a folder that is not a complete `StableDiffusionPipeline` in safetensors.

    Raises:
        ModelError: names the first thing that is missing or not allowed, or that makes it another kind of model.
    """
    _check_parts(folder)
    for part in COMPONENTS:
        _check_weights(folder / part)
    check_kind(folder)


def check_kind(folder: Path) -> None:
    """Refuse what is no text-to-image model like Stable Diffusion 1.x and 2.x, by its configurations alone.

    Raises:
        ModelError: as `check_layout`.
    """
    _check_parts(folder)
    unet, vae, text = (_read_config(folder / part / "config.json") for part in COMPONENTS)
    schedule = _read_config(folder / "scheduler" / "scheduler_config.json")
    text = {**text, **(text.get("text_config") or {}), "model_type": text.get("model_type")}

    def refuse(what: str) -> ModelError:
        return ModelError(f"{folder} cannot be used: {what}; give a Stable Diffusion 1.x or 2.x text-to-image model")

    for name, meaning in OTHER_INPUTS.items():
        if (value := unet.get(name)) is not None:
            raise refuse(f"its U-Net {meaning} ({name} is {value!r})")
    if (kind := text["model_type"]) not in ("clip", "clip_text_model"):
        raise refuse(f"its text encoder is no CLIP (model_type is {kind!r})")
    # What a file leaves out is what diffusers and transformers take for it.
    ours, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if ours != latent:
        raise refuse(f"its U-Net takes {ours} channels (in_channels) and its latents have {latent}")
    widths, made = unet.get("cross_attention_dim", 1280), text.get("hidden_size", 512)
    if {made} != set(widths if isinstance(widths, list) else [widths]):
        raise refuse(
            f"its U-Net attends to vectors of {widths} numbers (cross_attention_dim), "
            f"and its text encoder makes those of {made}"
        )
    predicted = schedule.get("prediction_type", "epsilon")
    if predicted not in ("epsilon", "v_prediction"):
        raise refuse(f"its U-Net predicts {predicted!r}, not epsilon or v_prediction")
    if predicted == "epsilon" and schedule.get("rescale_betas_zero_snr"):
        raise refuse(
            "its U-Net predicts epsilon, which at the end of its schedule (rescale_betas_zero_snr) says nothing"
        )


def _check_parts(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} has no model_index.json; it must be a model in diffusers format")
    for part in (*COMPONENTS, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise ModelError(
                f"{folder} has no {part}/ folder; it must hold unet, vae, text_encoder, tokenizer and scheduler"
            )


def _check_weights(part: Path) -> None:
    weights = sorted(path.name for path in part.glob("*.safetensors"))
    if not weights:
        pickled = sorted(p.name for p in part.iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".pkl", ".pth"))
        what = f"only pickled weights ({pickled[0]}), which are never loaded" if pickled else "no weights"
        raise ModelError(
            f"{part} has {what}; convert the model to safetensors (variants such as fp16 are not taken from a hub)"
        )
    if all(name.count(".") > 1 for name in weights):
        stem, variant, _ = weights[0].split(".", 2)
        raise ModelError(
            f"{part} has its weights only as the variant {variant} ({weights[0]}); rename them to {stem}.safetensors, "
            "in all folders"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); a model in diffusers format has one") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is no JSON object; a model in diffusers format has one there")
    return config
