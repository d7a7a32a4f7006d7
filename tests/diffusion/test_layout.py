"""Model folders that look like Stable Diffusion and are something else: refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.diffusion.layout import ModelError, check_layout
from engine.miniature import model_path
from tests.diffusion.models import make_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    make_model("sd2").save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def configure(folder: Path, file: str, **changes) -> None:
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **changes}))


def test_stable_diffusion_and_the_miniature_are_allowed(folder):
    check_layout(folder)
    check_layout(model_path())


UNET, VAE, TEXT, SCHEDULE = (f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "scheduler"))
SCHEDULE = SCHEDULE.replace("/", "/scheduler_")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (UNET, {"addition_embed_type": "text_time"}, "SDXL .addition_embed_type is 'text_time'"),
        (UNET, {"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        (UNET, {"num_class_embeds": 1000}, "num_class_embeds is 1000"),
        (UNET, {"time_cond_proj_dim": 256}, "time_cond_proj_dim is 256"),
        (UNET, {"in_channels": 9}, "takes 9 channels .* its latents have 4"),
        (VAE, {"latent_channels": 16}, "takes 4 channels .* its latents have 16"),
        (UNET, {"cross_attention_dim": 768}, "vectors of 768 numbers .* makes those of 32"),
        (TEXT, {"hidden_size": 1024}, "vectors of 32 numbers .* makes those of 1024"),
        (TEXT, {"model_type": "t5"}, "no CLIP .model_type is 't5'"),
        (SCHEDULE, {"prediction_type": "sample"}, "predicts 'sample'"),
        (SCHEDULE, {"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_another_kind_of_model_is_refused_with_the_setting_that_makes_it_one(folder, file, changes, message):
    configure(folder, file, **changes)
    with pytest.raises(ModelError, match=f"model cannot be used: .*{message}.*; give a Stable Diffusion 1.x or 2.x"):
        check_layout(folder)


def test_a_text_encoder_may_be_described_as_half_of_a_clip(folder):
    text = json.loads((folder / TEXT).read_text())
    (folder / TEXT).write_text(json.dumps({"model_type": "clip", "text_config": text}))
    check_layout(folder)


def test_weights_of_another_precision_only_are_refused(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    with pytest.raises(ModelError, match=r"variant fp16 .*; rename them to diffusion_pytorch_model\.safetensors"):
        check_layout(folder)


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_a_configuration_that_is_none_is_refused(folder, content):
    (folder / UNET).unlink()
    if content:
        (folder / UNET).write_bytes(content)
    with pytest.raises(ModelError, match=r"unet/config\.json"):
        check_layout(folder)
