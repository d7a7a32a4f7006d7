"""From a captioned corpus to a model folder: autoencoder, latents, tokenizer, diffusion model, card."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from engine.diffusion.model import LatentDiffusion, load_model
from engine.diffusion.pretraining.autoencoder import AutoencoderConfig, encode_images, train_autoencoder
from engine.diffusion.pretraining.captions import join_captions
from engine.diffusion.pretraining.card import write_card, write_reconstructions, write_samples
from engine.diffusion.pretraining.data import halve, load_captioned_images
from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig, start_from, train_latent_diffusion
from engine.diffusion.pretraining.loop import LoopConfig
from engine.diffusion.pretraining.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

PRETRAINING_VERSION = 2
"""Raised whenever a training that was begun before cannot go on, for example because its words have other numbers."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides the trained model.

    Attributes:
        input: captioned WebDataset corpus (URL, pattern or folder).
        resolution: images are brought to this many pixels a side.
        limit: use only the first so many samples.
        mirror: also train on mirrored images.
        letterbox: also train on the whole images, fitted into the square as labelling fits them.
        prompt_length: tokens of a padded prompt.
        vae: folder of an autoencoder to use instead of training one.
        half: store the U-Net as float16; it is read back as float32.
        initial: folder of a model whose U-Net and text encoder are the starting point; its words keep their embeddings.
    """

    input: str
    resolution: int
    limit: int | None
    mirror: bool
    letterbox: bool
    prompt_length: int
    seed: int
    vae: Path | None
    initial: Path | None
    half: bool
    autoencoder: AutoencoderConfig
    autoencoder_loop: LoopConfig
    diffusion: LatentDiffusionConfig
    diffusion_loop: LoopConfig


def pretrain(config: PretrainConfig, output: Path, *, device: torch.device, command: str = "") -> LatentDiffusion:
    """Train (or resume) in `output`/training and write the model and its card to `output`.

    Args:
        command: what the user typed, for the card.

    Raises:
        ValueError: an unusable corpus or configuration, or a training folder of another configuration.
    """
    folder = output / "training"
    _check_same_config(folder / "config.json", config)
    data = load_captioned_images(config.input, resolution=config.resolution, limit=config.limit)
    logger.info("%d captioned images, %d items skipped", len(data.captions), data.skipped)

    tokenizer = _make_tokenizer(data.captions, config)
    initial = load_model(config.initial) if config.initial else None
    _check_shapes(config, tokenizer, initial)
    folder.mkdir(parents=True, exist_ok=True)
    _keep_config(folder / "config.json", config)

    vae_losses: list[float] = []
    if config.vae is not None:
        vae = AutoencoderKL.from_pretrained(config.vae, use_safetensors=True, local_files_only=True).eval().to(device)
        vae.register_to_config(_name_or_path="")  # where it lay here means nothing elsewhere
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

    latents, small = _encode_views(folder, vae, data.images, config)
    prompts = [caption for caption, _ in Counter(data.captions).most_common(8)]

    def draw(step: int, model: LatentDiffusion) -> None:
        write_samples(model, prompts, output / "samples.png", seed=config.seed)

    model, losses = train_latent_diffusion(
        latents,
        data.captions,
        vae,
        tokenizer,
        config.diffusion,
        config.diffusion_loop,
        small_latents=small,
        initial=initial,
        seed=config.seed,
        folder=folder,
        device=device,
        on_checkpoint=draw,
    )
    model.save(output, half=config.half)
    draw(len(losses), model)
    write_card(
        output,
        command=command,
        images=len(data.captions),
        config=json.loads(json.dumps(asdict(config), default=str)),
        losses={"autoencoder": vae_losses, "latent diffusion": losses},
    )
    return model


def _make_tokenizer(captions: list[str], config: PretrainConfig) -> PreTrainedTokenizerBase:
    """Knows the captions' words; says so, before anything is trained, if it cannot hold them whole."""
    told, always = set(captions), [config.diffusion.dropped_caption]
    if config.diffusion.inset:
        longest = max(told, key=lambda caption: len(caption.split()))
        told.add(join_captions(longest, longest))
        always.append(join_captions("", ""))
    tokenizer = build_tokenizer(captions, length=config.prompt_length, always=always)
    needed = max(len(tokenizer(text, truncation=False).input_ids) for text in told)
    if needed > config.prompt_length:
        logger.warning(
            "captions have up to %d tokens; the model reads %d of them (--prompt-length)", needed, config.prompt_length
        )
    return tokenizer


def _encode_views(
    folder: Path, vae: AutoencoderKL, images: torch.Tensor, config: PretrainConfig
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latents of all views of the images, and those of half their size where insets are asked for."""
    latents = _encode_once(folder / "latents.safetensors", vae, images, mirror=config.mirror)
    if config.letterbox:
        boxed = load_captioned_images(
            config.input, resolution=config.resolution, limit=config.limit, framing="letterbox"
        ).images
        more = _encode_once(folder / "latents-letterbox.safetensors", vae, boxed, mirror=config.mirror)
        latents = torch.cat([latents, more])
    small = None
    if config.diffusion.inset:
        small = _encode_once(folder / "latents-small.safetensors", vae, halve(images), mirror=config.mirror)
    return latents, small


def _encode_once(path: Path, vae: AutoencoderKL, images: torch.Tensor, *, mirror: bool) -> torch.Tensor:
    """Latents of the images, then of their mirror images if asked for; kept in a file for a resumed training."""
    made_of = _digest(images, *vae.state_dict().values())
    if path.exists():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("made_of") == made_of:
                return file.get_tensor("latents")
        logger.warning("%s is of other images or another autoencoder; it is made anew", path)
    latents = encode_images(vae, images)
    if mirror:
        latents = torch.cat([latents, encode_images(vae, images.flip(-1))])
    latents = latents.contiguous()  # as the file gives them back: the layout decides how sums are rounded
    partial = path.with_name(f".{path.name}.partial")
    save_file({"latents": latents}, partial, metadata={"made_of": made_of})
    partial.rename(path)
    return latents


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _check_shapes(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, initial: LatentDiffusion | None) -> None:
    """Finds out before anything is trained what cannot be built, or does not fit the initial model; ValueError."""
    with torch.random.fork_rng(devices=[]):
        own = config.autoencoder.build(config.resolution).config
        vae = AutoencoderKL.load_config(config.vae) if config.vae else own
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        sides = {"resolution": config.resolution}
        if not config.vae:
            sides["autoencoder.crop"] = min(config.autoencoder.crop, config.resolution)
        for name, side in sides.items():
            if side < 1 or side % factor:
                raise ValueError(f"{name} is {side}; this autoencoder takes multiples of {factor} pixels")
        unet = config.diffusion.build_unet(vae["latent_channels"], config.resolution)
        text_encoder = config.diffusion.build_text_encoder(tokenizer)
        if initial is not None:
            start_from(initial, unet, text_encoder, tokenizer)


def _settings(config: PretrainConfig) -> str:
    return json.dumps({"version": PRETRAINING_VERSION, **asdict(config)}, indent=1, default=str)


def _check_same_config(path: Path, config: PretrainConfig) -> None:
    text = _settings(config)
    if path.exists() and path.read_text() != text:
        old, new = json.loads(path.read_text()), json.loads(text)
        changed = [f"{name}: {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
        raise ValueError(
            f"{path.parent} holds a training with other settings ({'; '.join(changed)}); choose another output"
        )


def _keep_config(path: Path, config: PretrainConfig) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(_settings(config))
    partial.rename(path)
