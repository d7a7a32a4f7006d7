"""Small models of real shapes with random weights, for tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.pretraining.latent_diffusion import make_scheduler
from engine.diffusion.pretraining.tokenizer import build_tokenizer

CAPTIONS = [
    "a photo of a car",
    "a photo of a fire truck on grass",
    "a photo of a human with arms and legs",
    "a photo of a background",
] * 2


def make_tokenizer(length: int = 20) -> PreTrainedTokenizerBase:
    return build_tokenizer(CAPTIONS, length=length)


def make_unet(kind: str) -> UNet2DConditionModel:
    """`sd1`: the 4 levels, 2 layers a block and 16 cross-attention layers of SD 1.x with 8 heads, narrower;
    `sd2`: heads of fixed width, linear projections; `miniature`: the shape of the bundled model."""
    torch.manual_seed(0)
    if kind == "miniature":
        from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig

        return LatentDiffusionConfig(text_width=32).build_unet(4, 32).eval()
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        cross_attention_dim=32,
        norm_num_groups=8,
        attention_head_dim=8 if kind == "sd1" else (2, 4, 4, 4),
        use_linear_projection=kind == "sd2",
        upcast_attention=kind == "sd2",
    ).eval()


def make_model(kind: str = "sd1") -> LatentDiffusion:
    tokenizer = make_tokenizer()
    unet = make_unet(kind)
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8) if kind != "miniature" else (8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * (4 if kind != "miniature" else 3),
        up_block_types=("UpDecoderBlock2D",) * (4 if kind != "miniature" else 3),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=128,
    ).eval()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu" if kind == "sd2" else "quick_gelu",
        )
    ).eval()
    scheduler = make_scheduler("v_prediction" if kind == "sd2" else "epsilon")
    model = LatentDiffusion(vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)
    for part in (vae, unet, text_encoder):
        part.requires_grad_(False)
    return model


def rescale(model: LatentDiffusion) -> LatentDiffusion:
    """The same with a schedule whose last timestep, where samplers begin, is noise alone: ᾱ = 0."""
    config = model.scheduler.config
    scheduler = DDPMScheduler.from_config(config, timestep_spacing="trailing", rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] == 0
    return replace(model, scheduler=scheduler)
