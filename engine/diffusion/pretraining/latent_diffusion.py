"""The second stage: text encoder and U-Net, trained together on the autoencoder's latents.

The text encoder has no transformer layer by default: a small contextual encoder trained jointly moves all meaning
into the end-of-text token and leaves the concept's own token without a region to attend to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.pretraining.captions import CaptionedLatents, caption_weights
from engine.diffusion.pretraining.loop import LoopConfig, train
from engine.diffusion.training import batch_generator


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionConfig:
    """Shape and objective of the diffusion model.

    Attributes:
        channels: width of each U-Net level, finest first.
        attention: which levels carry cross-attention (and self-attention), finest first.
        heads: attention heads of every level.
        text_width: width of a token's embedding.
        text_layers: transformer layers of the text encoder.
        positions: learn where in a caption a word stands; without, a caption is a bag of words, and a word looks for
            the same region wherever it stands.
        prediction_type: what the U-Net predicts: the noise ε or the velocity v.
        timestep_sampling: how t is drawn for training: uniformly, or logit-normally (t = 1000 sigmoid(n),
            n ~ N(timestep_shift, 1); Esser et al. 2024, Sec. 3.1), which spends more steps where captions help most:
            amid the noise.
        timestep_shift: above 0 more of them with much noise.
        caption_dropout: probability that a caption is replaced by `dropped_caption`.
        noise_offset: strength of the per-channel constant added to the noise.
        inset: probability that another image, half as wide and high, is pasted into an image, and its caption added.
        balance: images are drawn with weights ∝ (images of the same caption)^-balance: 0 all alike, 1 captions alike.
    """

    channels: tuple[int, ...] = (24, 48, 96, 128)
    attention: tuple[bool, ...] = (False, True, True, False)
    heads: int = 2
    text_width: int = 96
    text_layers: int = 0
    positions: bool = True
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_sampling: Literal["uniform", "logit_normal"] = "logit_normal"
    timestep_shift: float = 0.0
    caption_dropout: float = 0.1
    dropped_caption: str = ""
    noise_offset: float = 0.0
    inset: float = 0.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ValueError(f"channels {self.channels} and attention {self.attention} differ in length")
        if not any(self.attention):
            raise ValueError("no level has attention; without cross-attention there is nothing to mine masks from")
        for name in ("caption_dropout", "inset", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.timestep_shift and self.timestep_sampling == "uniform":
            raise ValueError(f"timestep_shift is {self.timestep_shift}; uniform ones have none, logit_normal ones do")

    def build_unet(self, latent_channels: int, sample_size: int) -> UNet2DConditionModel:
        down = tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in self.attention)
        up = tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(self.attention))
        return UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=self.channels,
            layers_per_block=1,
            down_block_types=down,
            up_block_types=up,
            mid_block_type="UNetMidBlock2DCrossAttn" if self.attention[-1] else "UNetMidBlock2D",
            cross_attention_dim=self.text_width,
            attention_head_dim=self.heads,
            norm_num_groups=8,
        )

    def build_text_encoder(self, tokenizer: PreTrainedTokenizerBase) -> CLIPTextModel:
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=self.text_width,
                intermediate_size=4 * self.text_width,
                num_hidden_layers=self.text_layers,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )


def make_scheduler(prediction_type: str) -> DDPMScheduler:
    """The noise schedule of Stable Diffusion: 1000 steps, scaled-linear β from 0.00085 to 0.012."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        steps_offset=1,
        timestep_spacing="leading",
    )


def draw_timesteps(sampling: str, count: int, last: int, generator: torch.Generator, shift: float = 0.0) -> Tensor:
    """`count` timesteps in 0..last - 1, int64."""
    if sampling == "uniform":
        return torch.randint(last, (count,), generator=generator)
    return ((torch.randn(count, generator=generator) + shift).sigmoid() * last).long().clamp(max=last - 1)


def start_from(
    initial: LatentDiffusion,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Copy the weights of `initial`; ValueError if its networks have another shape."""
    theirs = initial.text_encoder.state_dict()
    own = text_encoder.state_dict()
    table = next(name for name in own if name.endswith("token_embedding.weight"))
    known = initial.tokenizer.get_vocab()
    try:
        unet.load_state_dict(initial.unet.state_dict())
        for word, index in tokenizer.get_vocab().items():
            if word in known:
                own[table][index] = theirs[table][known[word]]
        text_encoder.load_state_dict({**theirs, table: own[table]})
    except RuntimeError as error:
        raise ValueError(f"the initial model has another shape: {error}") from error


def train_latent_diffusion(
    latents: Tensor,
    captions: list[str],
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerBase,
    config: LatentDiffusionConfig,
    loop: LoopConfig,
    *,
    small_latents: Tensor | None = None,
    initial: LatentDiffusion | None = None,
    seed: int,
    folder: Path,
    device: torch.device,
    on_checkpoint: Callable[[int, LatentDiffusion], None] | None = None,
) -> tuple[LatentDiffusion, list[float]]:
    """Fit U-Net and text encoder to scaled `latents` ([N, C, h, w]) and their captions by ‖prediction - target‖².

    With k N latents, each N of them are those of another view of the images (mirrored, letterboxed): each draw takes
    one view.

    Args:
        small_latents: latents of the same images at half the size, [k N, C, h/2, w/2]; needed if config.inset.
        initial: a model of the same shape to go on from; words it does not know start anew.
    """
    torch.manual_seed(seed)
    unet = config.build_unet(latents.shape[1], latents.shape[-1])
    text_encoder = config.build_text_encoder(tokenizer)
    if initial is not None:
        start_from(initial, unet, text_encoder, tokenizer)
    if not config.positions:
        (table,) = (p for name, p in text_encoder.named_parameters() if name.endswith("position_embedding.weight"))
        table.requires_grad_(False).zero_()
    unet, text_encoder = unet.to(device, memory_format=torch.channels_last), text_encoder.to(device)
    scheduler = make_scheduler(config.prediction_type)
    data = CaptionedLatents(
        whole=latents,
        small=small_latents,
        captions=captions,
        weights=caption_weights(captions, config.balance),
        inset=config.inset,
        dropout=config.caption_dropout,
        dropped=config.dropped_caption,
    )
    last = scheduler.config.num_train_timesteps

    def loss_at(step: int) -> Tensor:
        g = batch_generator(seed, step)
        z0, texts = data.draw(loop.batch_size, g)
        t = draw_timesteps(config.timestep_sampling, loop.batch_size, last, g, config.timestep_shift)
        noise = torch.randn(z0.shape, generator=g)
        noise += config.noise_offset * torch.randn(*z0.shape[:2], 1, 1, generator=g)
        z0, texts = data.compose(z0, texts, g)
        zt = scheduler.add_noise(z0, noise, t).to(device)
        target = noise if config.prediction_type == "epsilon" else scheduler.get_velocity(z0, noise, t)
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        context = text_encoder(tokens.to(device))[0]
        prediction = unet(zt, t.to(device), context).sample
        return (prediction.float() - target.to(device)).square().mean()

    def assemble(networks: dict) -> LatentDiffusion:
        return LatentDiffusion(
            vae=vae,
            unet=networks["unet"],
            text_encoder=networks["text"],
            tokenizer=tokenizer,
            scheduler=scheduler,
        )

    averaged, losses = train(
        {"unet": unet, "text": text_encoder},
        loss_at,
        loop,
        checkpoint=folder / "latent-diffusion.safetensors",
        title="latent diffusion",
        device=device,
        on_checkpoint=(lambda step, networks: on_checkpoint(step, assemble(dict(networks)))) if on_checkpoint else None,
    )
    return assemble(averaged), losses
