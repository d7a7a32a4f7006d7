"""From a captioned corpus to a model folder: autoencoder, latents, tokenizer, diffusion model, pictures, model card."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from torch import Tensor

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.pretraining.autoencoder import AutoencoderConfig, encode_images, train_autoencoder
from engine.diffusion.pretraining.data import load_captioned_images, to_model_range
from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig, train_latent_diffusion
from engine.diffusion.pretraining.loop import LoopConfig
from engine.diffusion.pretraining.tokenizer import build_tokenizer
from engine.diffusion.sampling import sample_ddim

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides the trained model.

    Attributes:
        input: captioned WebDataset corpus (URL, pattern or folder).
        resolution: images are brought to this many pixels a side.
        limit: use only the first so many samples.
        mirror: also train on mirrored images.
        prompt_length: tokens of a padded prompt.
        vae: folder of an autoencoder to use instead of training one.
    """

    input: str
    resolution: int
    limit: int | None
    mirror: bool
    prompt_length: int
    seed: int
    vae: Path | None
    autoencoder: AutoencoderConfig
    autoencoder_loop: LoopConfig
    diffusion: LatentDiffusionConfig
    diffusion_loop: LoopConfig


def pretrain(config: PretrainConfig, output: Path, *, device: torch.device) -> LatentDiffusion:
    """Train (or resume) in `output`/training and write the model to `output`.

    Raises:
        ValueError: an unusable corpus or configuration, or a training folder of another configuration.
    """
    folder = output / "training"
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_config(folder / "config.json", config)
    data = load_captioned_images(config.input, resolution=config.resolution, limit=config.limit)
    logger.info("%d captioned images, %d items skipped", len(data.captions), data.skipped)

    vae_losses: list[float] = []
    if config.vae is not None:
        vae = AutoencoderKL.from_pretrained(config.vae, use_safetensors=True).eval().to(device)
    else:
        vae, vae_losses = train_autoencoder(
            data.images,
            config.autoencoder,
            config.autoencoder_loop,
            seed=config.seed,
            folder=folder,
            device=device,
        )
    vae.requires_grad_(False)
    write_reconstructions(vae, data.images[:12], folder / "reconstructions.png")

    latents = encode_images(vae, data.images)
    if config.mirror:
        latents = torch.cat([latents, encode_images(vae, data.images.flip(-1))])
    tokenizer = build_tokenizer([*data.captions, config.diffusion.dropped_caption], length=config.prompt_length)
    prompts = [caption for caption, _ in Counter(data.captions).most_common(8)]

    def draw(step: int, model: LatentDiffusion) -> None:
        write_samples(model, prompts, folder / "samples.png", seed=config.seed)

    model, losses = train_latent_diffusion(
        latents,
        data.captions,
        vae,
        tokenizer,
        config.diffusion,
        config.diffusion_loop,
        seed=config.seed,
        folder=folder,
        device=device,
        on_checkpoint=draw,
    )
    model.save(output)
    curves = {"autoencoder": vae_losses, "latent diffusion": losses}
    (output / "training.json").write_text(json.dumps(_record(config, len(data.captions), curves), indent=1) + "\n")
    return model


def _check_same_config(path: Path, config: PretrainConfig) -> None:
    text = json.dumps(asdict(config), indent=1, default=str)
    if path.exists() and path.read_text() != text:
        old, new = json.loads(path.read_text()), json.loads(text)
        changed = [f"{name}: {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
        raise ValueError(
            f"{path.parent} holds a training with other settings ({'; '.join(changed)}); choose another output"
        )
    path.write_text(text)


def _record(config: PretrainConfig, images: int, curves: dict[str, list[float]]) -> dict:
    """What the model card tells: settings, date, and loss curves thinned to a hundred points."""
    thinned = {}
    for name, losses in curves.items():
        every = max(1, math.ceil(len(losses) / 100))
        thinned[name] = [
            [start + every, round(sum(part) / len(part), 5)]
            for start in range(0, len(losses), every)
            if (part := losses[start : start + every])
        ]
    return {
        "date": date.today().isoformat(),
        "images": images,
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "loss_curves": thinned,
    }


def write_reconstructions(vae: AutoencoderKL, images: Tensor, path: Path) -> None:
    """A PNG of images ([N, 3, R, R] uint8) above their reconstructions."""
    with torch.no_grad():
        x = to_model_range(images).to(vae.device)
        out = vae.decode(vae.encode(x).latent_dist.mean).sample.cpu()
    save_grid([to_model_range(images), out], path)


def write_samples(model: LatentDiffusion, prompts: list[str], path: Path, *, seed: int, steps: int = 20) -> None:
    """A PNG with a sample of every prompt, from fixed noise."""
    shape = (len(prompts), model.unet.config.in_channels, model.latent_size, model.latent_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    context = model.encode_text(prompts)
    images = model.decode(sample_ddim(model, noise, context, steps)).cpu()
    save_grid([images], path, titles=prompts)


def save_grid(rows: list[Tensor], path: Path, *, titles: list[str] | None = None) -> None:
    """Rows of images ([n, 3, H, W] in [-1, 1]) as one PNG, with an optional title over each column."""
    height, width = rows[0].shape[-2:]
    head = 24 if titles else 0
    sheet = Image.new("RGB", (len(rows[0]) * width, head + len(rows) * height), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (c * width, head + r * height))
    pen = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles or []):
        words = title.removeprefix("a photo of ")
        pen.text((c * width + 2, 2), words[: width // 6] + "\n" + words[width // 6 :], fill="black")
    sheet.save(path)
