"""Model folders: the layout of StableDiffusionPipeline, safetensors only."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from engine.diffusion.model import (
    IMAGES_AT_ONCE,
    ModelError,
    find_model,
    hash_weights,
    load_model,
    load_scheduler,
)
from engine.diffusion.sampling import guide, sample
from engine.labelling.spec import LabelSpec, RefinementSpec, SeveralSpec
from engine.run.fake import FakeSource
from engine.run.origin import find_origin
from engine.run.source import ModelSource
from engine.run.synthesis import plan_synthesis
from engine.synthesis.spec import SynthesisSpec
from tests.diffusion.models import make_model
from tests.run.origins import start_origin


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    paths = {}
    for kind in ("sd1", "sd2"):
        paths[kind] = tmp_path_factory.mktemp(kind)
        make_model(kind).save(paths[kind])
    return paths


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_saved_model_loads_with_equal_weights(folders, kind):
    loaded, original = load_model(find_model(str(folders[kind]))), make_model(kind)
    for part in ("unet", "vae", "text_encoder"):
        for name, value in getattr(original, part).state_dict().items():
            assert torch.equal(getattr(loaded, part).state_dict()[name], value), (part, name)
    assert loaded.scheduler.config.prediction_type == ("v_prediction" if kind == "sd2" else "epsilon")
    assert loaded.resolution == 128 and loaded.factor == 8


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_diffusers_own_pipeline_samples_what_ours_samples(folders, kind):
    """An independent reference for loading, prompt encoding, timesteps, DDIM and both prediction types."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folders[kind], safety_checker=None, requires_safety_checker=False
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = pipeline(
        "a photo of a car", latents=noise, num_inference_steps=5, guidance_scale=1.0, output_type="latent"
    ).images
    model = load_model(folders[kind])
    context = model.encode_text(["a photo of a car"])
    ours = sample(model, noise, guide(model, context, context, 1), 5)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_the_latent_is_the_scaled_mean_and_decodes_back_to_image_size(folders):
    model = load_model(folders["sd1"])
    image = torch.rand(1, 3, 128, 128) * 2 - 1
    z0 = model.encode(image)
    expected = model.vae.encode(image).latent_dist.mean * model.vae.config.scaling_factor
    assert torch.equal(z0, expected) and z0.shape == (1, 4, 16, 16)
    assert model.decode(z0).shape == image.shape


def test_the_hash_changes_with_a_single_weight(folders, tmp_path):
    first = hash_weights(folders["sd1"])
    assert first == hash_weights(folders["sd1"])
    model = make_model("sd1")
    model.unet.conv_in.bias += 1e-3
    model.save(tmp_path)
    assert hash_weights(tmp_path) != first


def test_a_missing_model_is_refused():
    with pytest.raises(ModelError, match="no model folder 'nowhere'"):
        find_model("nowhere")


def test_a_hub_id_needs_a_revision():
    with pytest.raises(ModelError, match="--revision"):
        find_model("somebody/some-model")


def test_a_branch_of_a_hub_is_resolved_to_its_commit_once_for_all_workers(folders, tmp_path, monkeypatch):
    commit, asked = 40 * "a", []
    shutil.copytree(folders["sd1"], tmp_path / commit)

    def download(name, revision, **options):
        asked.append((name, revision))
        return str(tmp_path / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = ModelSource.named("somebody/some-model", "main")
    assert source == ModelSource(model="somebody/some-model", revision=commit)
    source.check(LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary"))
    assert asked == 2 * [("somebody/some-model", "main")] + 2 * [("somebody/some-model", commit)]


def test_a_hub_s_model_of_another_kind_is_refused_before_its_weights_are_fetched(folders, tmp_path, monkeypatch):
    asked = []
    shutil.copytree(folders["sd1"], tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "model" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "addition_embed_type": "text_time"}))

    def download(name, *, allow_patterns, **options):
        asked.extend(allow_patterns)
        return str(tmp_path / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ModelError, match="SDXL"):
        find_model("somebody/some-model", "main")
    assert asked and not any(pattern.endswith("safetensors") for pattern in asked)


def test_pickled_weights_are_refused(tmp_path):
    make_model("sd1").save(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="pickled weights"):
        find_model(str(tmp_path))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model_index\.json"):
        find_model(str(tmp_path))


def test_a_damaged_weight_file_is_refused(tmp_path):
    make_model("sd1").save(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)


@pytest.mark.parametrize("change", ["missing", "misshapen"])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_all_there_are_refused_by_name(folders, tmp_path, part, change):
    """Libraries would draw the rest at random, each time anew."""
    shutil.copytree(folders["sd1"], tmp_path / "copy")
    (file,) = (tmp_path / "copy" / part).glob("*.safetensors")
    weights = load_file(file)
    name = min(weights)
    weights[name] = torch.zeros(3, 3, 3)
    if change == "missing":
        del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"copy cannot be loaded: .*{name}"):
        load_model(tmp_path / "copy")


def test_weights_by_the_names_of_older_libraries_are_all_there(folders, tmp_path):
    """As published models have them: a prefix and a buffer in the text encoder, other layers in the autoencoder."""
    shutil.copytree(folders["sd1"], tmp_path / "copy")
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part in ("text_encoder", "vae"):
        (file,) = (tmp_path / "copy" / part).glob("*.safetensors")
        weights = load_file(file)
        if part == "text_encoder":
            weights = {f"text_model.{name}": value for name, value in weights.items()}
            weights["text_model.embeddings.position_ids"] = torch.arange(20)[None]
        for name in [name for name in weights if ".attentions.0." in name and part == "vae"]:
            layer = name.split(".attentions.0.")[1].rpartition(".")[0]
            weights[name.replace(layer, renamed.get(layer, layer))] = weights.pop(name)
        save_file(weights, file, metadata={"format": "pt"})
    loaded, original = load_model(tmp_path / "copy"), load_model(folders["sd1"])
    for part in ("text_encoder", "vae"):
        for name, value in getattr(original, part).state_dict().items():
            assert torch.equal(getattr(loaded, part).state_dict()[name], value), name


def test_the_autoencoder_gets_few_images_at_once_whoever_asks(folders, monkeypatch):
    model = load_model(folders["sd1"])
    images = torch.rand(IMAGES_AT_ONCE + 3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = torch.cat([model.encode(image[None]) for image in images])
    sizes = []
    for name in ("encode", "decode"):
        real = getattr(model.vae, name)
        monkeypatch.setattr(model.vae, name, lambda x, real=real: (sizes.append(len(x)), real(x))[1])
    z0 = model.encode(images)
    torch.testing.assert_close(z0, expected, rtol=1e-4, atol=1e-4)
    assert model.decode(z0).shape == images.shape
    assert sizes == [IMAGES_AT_ONCE, 3] * 2


def test_a_folder_whose_schedule_is_missing_is_refused(folders, tmp_path):
    shutil.copytree(folders["sd1"], tmp_path / "copy")
    (tmp_path / "copy" / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelError, match=r"schedule of .*copy cannot be read"):
        load_scheduler(tmp_path / "copy")


@pytest.mark.parametrize("settings", [{"timesteps": 1000}, {"refinement": RefinementSpec(inpaint_steps=1000)}])
def test_more_steps_than_the_model_has_are_refused_when_a_run_is_planned(settings):
    source, spec = ModelSource(model="miniature"), LabelSpec(concept="car", prompt="a photo of a car")
    source.check(spec)
    with pytest.raises(ModelError, match="1000 timesteps are more than the 999"):
        source.check(replace(spec, **settings))


def test_more_steps_than_the_model_has_are_refused_when_a_synthesis_is_planned(tmp_path):
    start_origin(tmp_path, labelled=True)
    made_by_fakes = find_origin(str(tmp_path / "run"), source=FakeSource())
    origin = replace(made_by_fakes, source=ModelSource(model="miniature"))
    assert plan_synthesis(origin, SynthesisSpec(steps=999)).remaining
    with pytest.raises(ModelError, match="1000 timesteps are more than the 999"):
        plan_synthesis(origin, SynthesisSpec(steps=1000))


def test_inpainting_that_would_not_begin_with_noise_is_refused_when_a_run_is_planned():
    source, spec = ModelSource(model="miniature"), LabelSpec(concept="car", prompt="a photo of a car")
    uneven = replace(spec, refinement=RefinementSpec(inpaint_steps=350))
    with pytest.raises(ModelError, match="350 steps of ddim begin at timestep 699"):
        source.check(uneven)
    source.check(uneven.at("preliminary"))


def test_a_synthesis_that_would_not_begin_with_noise_is_refused_when_it_is_planned():
    source, settings = ModelSource(model="miniature"), SynthesisSpec(steps=350, solver="ddim")
    with pytest.raises(ModelError, match="350 steps of ddim begin at timestep 699"):
        source.check_synthesis(settings)
    source.check_synthesis(replace(settings, backgrounds=0, strength=0.6))


@pytest.mark.parametrize("presence_steps", [0, 1])
@pytest.mark.parametrize("stage", ["preliminary", "refined"])
def test_a_word_that_the_model_does_not_know_is_refused_wherever_it_is_asked(stage, presence_steps):
    source = ModelSource(model="miniature")
    spec = LabelSpec(concept="car", prompt="a photo of a car", stage=stage, presence_steps=presence_steps)
    with pytest.raises(ValueError, match="does not know 'zeppelin' of 'a zeppelin with a car'"):
        source.check(replace(spec, prompt="a zeppelin with a car"))
    elsewhere = replace(spec, background_prompt="a photo of a zeppelin")
    if stage == "preliminary" and not presence_steps:
        source.check(elsewhere)
        return
    with pytest.raises(ValueError, match="does not know 'zeppelin' of 'a photo of a zeppelin'"):
        source.check(elsewhere)


@pytest.mark.parametrize("stage", ["preliminary", "refined"])
def test_a_distractor_that_the_model_cannot_tell_from_the_prompt_is_refused(stage):
    source = ModelSource(model="miniature")
    spec = LabelSpec(concept="dog", prompt="a photo of a dog", stage=stage)
    both = SeveralSpec(specs=(spec, replace(spec, concept="car", prompt="a photo of a car")))
    for own in (spec, both):
        source.check(own)
    for same in ("a photo of a DOG", "a photo of a dog ", "a photo of a Dog"):
        asked = replace(spec, distractors=(same,))
        for own in (asked, SeveralSpec(specs=(asked, replace(both.specs[1], distractors=(same,))))):
            with pytest.raises(ValueError, match=f"the distractor {same!r} is to the model the same as the prompt"):
                source.check(own)
    unasked = replace(spec, background_prompt="a photo of a DOG", presence_steps=0)
    if stage == "preliminary":
        source.check(unasked)
    else:
        with pytest.raises(ValueError, match="the background prompt 'a photo of a DOG' is to the model the same"):
            source.check(unasked)
