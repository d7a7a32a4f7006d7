"""A latent diffusion model m in the layout of `StableDiffusionPipeline`: loading, saving, what the method asks of it.

What depends on the architecture sits here; the rest of the engine sees latents, contexts and a U-Net.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from engine.diffusion.layout import COMPONENTS, ModelError, check_kind, check_layout
from engine.diffusion.schedule import load_scheduler
from engine.gpu import prepare_device

IMAGES_AT_ONCE = 8
"""Per call of the autoencoder, which needs gigabytes for each at 512 pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentDiffusion:
    """The parts of a text-to-image latent diffusion model.

    Latents z are scaled by the autoencoder's `scaling_factor`; images are in [-1, 1].
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: DDPMScheduler

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_size(self) -> int:
        """Side of the square latent the U-Net was trained on, in cells."""
        size = self.unet.config.sample_size
        return size if isinstance(size, int) else max(size)

    @property
    def resolution(self) -> int:
        """Side of the square image the model was trained on, in pixels."""
        return self.latent_size * self.factor

    def to(self, device: torch.device | str) -> LatentDiffusion:
        """Move the networks (in place); returns self."""
        for name in COMPONENTS:
            getattr(self, name).to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """z0 of images [B, 3, H, W] in [-1, 1]: the posterior's mean, scaled; [B, C, H/f, W/f]."""
        parts = images.to(self.vae.dtype).split(IMAGES_AT_ONCE)
        return torch.cat([self.vae.encode(part).latent_dist.mean for part in parts]) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, z0: Tensor) -> Tensor:
        """Images in about [-1, 1] of scaled latents [B, C, h, w]: [B, 3, f h, f w]."""
        parts = (z0 / self.vae.config.scaling_factor).to(self.vae.dtype).split(IMAGES_AT_ONCE)
        return torch.cat([self.vae.decode(part).sample for part in parts])

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Context of the prompts for cross-attention: [len(prompts), tokens, width]."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write all parts as safetensors and JSON in the layout of `StableDiffusionPipeline`.

        Args:
            half: write the U-Net, which is most of it, as float16.
        """
        from diffusers import StableDiffusionPipeline  # takes seconds to import, and labelling never saves

        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            unet=copy.deepcopy(self.unet).half() if half else self.unet,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder, safe_serialization=True)


def find_model(name: str, revision: str | None = None) -> Path:
    """The local folder of a model: a directory as it is, or a hub id's files, downloaded at `revision` and cached.

    Raises:
        ModelError: no such folder, a hub id without a revision, pickled weights only, or another layout.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"--revision {revision} makes no sense for the local model {name}; leave it out")
        check_layout(folder)
        return folder.resolve()
    if name.endswith((".safetensors", ".ckpt")):
        raise ModelError(
            f"{name} is a single file; convert it to a folder in diffusers format, with "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), and give that"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"there is no model folder {name!r}; give a local directory in diffusers format or a hub id")
    if revision is None:
        raise ModelError(
            f"{name!r} is no local folder; for a hub id also give --revision (a commit),"
            " so that every run uses the same weights"
        )
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
        except Exception as error:
            raise ModelError(f"the hub did not give {name!r} at revision {revision!r}: {error}") from error

    settings = "model_index.json", "*/*.json", "*/*.txt"
    check_kind(fetch(*settings))  # before gigabytes of what cannot be used
    folder = fetch(*settings, "*/model.safetensors", "*/diffusion_pytorch_model.safetensors")
    check_layout(folder)
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer alone, to check a prompt without loading any weights."""
    return AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False, local_files_only=True)


def load_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusion:
    """Load a model from a local folder (see `find_model`), in evaluation mode and without gradients.

    Raises:
        ModelError: missing parts, files that cannot be read, or weights that are not all there.
        GpuError: the device is a GPU that torch cannot use.
    """
    check_layout(folder)
    prepare_device(device)
    local: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    text = {"dtype": dtype, "ignore_mismatched_sizes": True}  # else the error does not name them
    try:
        model = LatentDiffusion(
            vae=_whole(AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, **local)),
            unet=_whole(UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype, **local)),
            text_encoder=_whole(CLIPTextModel.from_pretrained(folder / "text_encoder", **text, **local)),
            tokenizer=load_tokenizer(folder),
            scheduler=load_scheduler(folder),
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded: {error}") from error
    for name in COMPONENTS:
        getattr(model, name).eval().requires_grad_(False)
    for network in (model.unet, model.vae):
        network.to(memory_format=torch.channels_last)  # else every convolution rearranges what it gets
    return model.to(device)


def _whole(loaded: tuple[Any, dict[str, Any]]) -> Any:
    """A network as `from_pretrained` gives it, with the report; ValueError if it had to make up weights."""
    network, report = loaded
    misfits = sorted(str(key[0]) for key in report["mismatched_keys"])
    for lacks, names in (("lack", sorted(report["missing_keys"])), ("have in another shape", misfits)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"the weights of {type(network).__name__} {lacks} {names[0]}{more}")
    return network


def hash_weights(folder: Path) -> str:
    """SHA-256 over the configurations, vocabularies and weights of a model, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in sorted((*COMPONENTS, "tokenizer", "scheduler")):
        for path in sorted((folder / part).iterdir()):
            if path.suffix not in (".safetensors", ".json", ".txt"):
                continue
            digest.update(json.dumps([part, path.name, path.stat().st_size]).encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()
