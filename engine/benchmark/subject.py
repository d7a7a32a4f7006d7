"""Models and images to measure with: of Stable Diffusion 1.5's shape, or the miniature; nothing is downloaded."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from engine.diffusion.model import COMPONENTS, LatentDiffusion, load_model
from engine.diffusion.pretraining.latent_diffusion import make_scheduler
from engine.diffusion.pretraining.tokenizer import build_tokenizer
from engine.distillation.weights import ConceptModel
from engine.miniature import model_path
from engine.miniature.scenes import draw_scene

CONCEPT = "car"
RANK = 16
Shape = Literal["sd15", "miniature"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        weights: of an m′ with adapters, as labelling has it by default.
        images: (H, W, 3) uint8, as large as the model's canvas; `jpegs` are the same, encoded.
        informative: whether the weights know anything, so that masks mean something.
    """

    shape: Shape
    model: LatentDiffusion
    weights: bytes
    images: list[np.ndarray]
    jpegs: list[bytes]
    informative: bool

    @property
    def keys(self) -> list[str]:
        return [f"{index:06d}" for index in range(len(self.images))]


def make_subject(shape: Shape, *, images: int, device: torch.device, dtype: torch.dtype) -> Subject:
    """The model on the device, and scenes of the miniature world at its size."""
    model = make_model(shape, device=device, dtype=dtype)
    side = model.resolution
    pictures = [draw_scene(5, index, width=side, height=side, concept=CONCEPT).image for index in range(images)]
    return Subject(
        shape=shape,
        model=model,
        weights=make_adapters(make_model(shape, device=device, dtype=dtype)),
        images=pictures,
        jpegs=[_to_jpeg(picture) for picture in pictures],
        informative=shape == "miniature",
    )


def make_model(shape: Shape, *, device: torch.device, dtype: torch.dtype) -> LatentDiffusion:
    """The bundled model, or one of Stable Diffusion 1.5's shape with random weights, which cost the same."""
    if shape == "miniature":
        return load_model(model_path(), device=device, dtype=dtype)
    tokenizer = build_tokenizer(["a photo of a car", "a photo of a background"] * 2, length=77)
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with device:
        networks = {"unet": sd15_unet(), "vae": sd15_vae(), "text_encoder": CLIPTextModel(text)}
    for name in COMPONENTS:
        networks[name].to(device, dtype).eval().requires_grad_(False)
    for name in ("unet", "vae"):
        networks[name].to(memory_format=torch.channels_last)
    return LatentDiffusion(**networks, tokenizer=tokenizer, scheduler=make_scheduler("epsilon"))


def sd15_unet() -> UNet2DConditionModel:
    """860 M parameters, 16 cross-attention layers."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def sd15_vae() -> AutoencoderKL:
    """84 M parameters, 8 pixels a cell."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
        scaling_factor=0.18215,
    )


def make_adapters(model: LatentDiffusion) -> bytes:
    """An m′ of the model that differs a little; uses the model up."""
    concept = ConceptModel(model, "lora", rank=RANK)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in concept.trainable().items():
            scale = 0.001 if ".lora_B" in name else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return concept.pack(rank=RANK, notes={})


def _to_jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
