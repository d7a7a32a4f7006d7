"""Train a small text-to-image latent diffusion model from scratch on a captioned WebDataset corpus."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.diffusion.pretraining.autoencoder import AutoencoderConfig
from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig
from engine.diffusion.pretraining.loop import LoopConfig
from engine.diffusion.pretraining.pretrain import PretrainConfig, pretrain


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """Train autoencoder, text encoder and U-Net on images and captions alone; no mask is ever read.

    Run the same command again to resume from the last checkpoint in OUTPUT/training. The model is written to OUTPUT
    in diffusers format, with training.json (settings, date, loss curves) beside it.

    Example: python jobs/miniature.py --output scenes --count 24000 --seed 1
             python jobs/pretrain.py --input scenes --output model
    """

    input: str
    """Captioned corpus: WebDataset tars with key.jpg and key.txt."""
    output: Path
    """Folder of the model."""
    resolution: int = 128
    """Training images are resized and centre-cropped to this many pixels a side."""
    limit: int | None = None
    """Use only the first so many samples."""
    mirror: bool = False
    """Also train on mirrored images (for corpora in which left and right mean nothing)."""
    prompt_length: int = 20
    """Tokens of a padded prompt."""
    seed: int = 1
    """Of initialisation, batches and noise."""
    vae: Path | None = None
    """Folder of a diffusers AutoencoderKL to use instead of training one."""
    initial: Path | None = None
    """Folder of a model of the same shape whose U-Net and text encoder are the starting point."""
    half: bool = False
    """Store the U-Net as float16: half the size, read back as float32."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train."""
    threads: int | None = None
    """CPU threads; default all."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    autoencoder_loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=4800, batch_size=8, learning_rate=2e-3, checkpoint_every=200)
    )
    diffusion: LatentDiffusionConfig = field(default_factory=LatentDiffusionConfig)
    diffusion_loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=4500, batch_size=16, checkpoint_every=250)
    )


def main() -> int:
    job = tyro.cli(PretrainJob, description=PretrainJob.__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if job.threads:
        torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    try:
        config = PretrainConfig(
            input=job.input,
            resolution=job.resolution,
            limit=job.limit,
            mirror=job.mirror,
            prompt_length=job.prompt_length,
            seed=job.seed,
            vae=job.vae,
            initial=job.initial,
            half=job.half,
            autoencoder=job.autoencoder,
            autoencoder_loop=job.autoencoder_loop,
            diffusion=job.diffusion,
            diffusion_loop=job.diffusion_loop,
        )
        pretrain(config, job.output, device=torch.device(job.device), command=shlex.join(["python", *sys.argv]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"the model is in {job.output.resolve()}; use it with --model {job.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
