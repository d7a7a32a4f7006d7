"""Train a small text-to-image latent diffusion model from scratch on a captioned WebDataset corpus."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

# Where the project is not installed (a job's working directory), it is found beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import storage
from engine.diffusion.pretraining.autoencoder import AutoencoderConfig
from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig
from engine.diffusion.pretraining.loop import LoopConfig
from engine.diffusion.pretraining.pretrain import PretrainConfig, pretrain
from engine.gpu import check_device
from engine.run.command import run_command
from engine.run.what_next import describe_next


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """All settings of the job."""

    input: str
    """Captioned corpus: WebDataset tars with key.jpg and key.txt."""
    output: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Local folder of the model."""
    resolution: int = 128
    """Training images are resized and centre-cropped to this many pixels a side."""
    limit: int | None = None
    """Use only the first so many samples."""
    mirror: bool = False
    """Also train on mirrored images (for corpora in which left and right mean nothing)."""
    letterbox: bool = False
    """Also train on whole images, fitted into the square as labelling fits them (for corpora that are not square)."""
    prompt_length: int = 20
    """Tokens of a padded prompt."""
    seed: int = 1
    """Of initialisation, batches and noise."""
    vae: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Local folder of a diffusers AutoencoderKL to use instead of training one."""
    initial: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Local folder of a model of the same shape whose U-Net and text encoder are the starting point."""
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


DESCRIPTION = """Trains autoencoder, text encoder and U-Net on images and captions alone; no mask is ever read.

Run the same command again to resume from the last checkpoint in OUTPUT/training. The model is written to OUTPUT
in diffusers format, with training.json (settings, date, loss curves) beside it.

Example:
  python jobs/miniature.py --output scenes --count 24000 --seed 1
  python jobs/pretrain.py --input scenes --output model

Exit code: 0 done, 1 stopped, 2 wrong usage."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, trains, writes; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run(job: PretrainJob) -> int:
        logging.getLogger("engine.diffusion.pretraining").setLevel(logging.INFO)
        device = check_device(job.device)
        if job.threads:
            torch.set_num_threads(job.threads)
        torch.set_flush_denormal(True)
        output = storage.local_path(job.output, "--output")
        config = PretrainConfig(
            input=job.input,
            resolution=job.resolution,
            limit=job.limit,
            mirror=job.mirror,
            letterbox=job.letterbox,
            prompt_length=job.prompt_length,
            seed=job.seed,
            vae=None if job.vae is None else storage.local_path(job.vae, "--vae"),
            initial=None if job.initial is None else storage.local_path(job.initial, "--initial"),
            half=job.half,
            autoencoder=job.autoencoder,
            autoencoder_loop=job.autoencoder_loop,
            diffusion=job.diffusion,
            diffusion_loop=job.diffusion_loop,
        )
        command = shlex.join(["python", "jobs/pretrain.py", *given])
        pretrain(config, output, device=device, command=command)
        print(f"the model is in {output.resolve()}")
        print(describe_next("pretrain", model=str(output.resolve())))
        return 0

    return run_command(PretrainJob, run, job="pretrain", description=DESCRIPTION, arguments=arguments, prefixes=True)


if __name__ == "__main__":
    sys.exit(main())
