"""Studies of M̂ against the labeller's own attention and scikit-learn; corpora that cannot be measured are refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from engine.diffusion.prompt import ConceptPrompt
from engine.evaluation.rows import EvaluationError
from engine.evaluation.studies.draws import study_draws
from engine.evaluation.studies.layers import agreements, layer_maps, shorten, study_layers
from engine.evaluation.studies.material import Latents, read_specimens
from engine.evaluation.studies.parts import study_parts
from engine.evaluation.studies.registry import run_study
from engine.evaluation.studies.study import StudyTask
from engine.evaluation.studies.timesteps import study_timesteps
from engine.evaluation.studies.tokens import study_tokens
from engine.labelling.attend import attend
from engine.labelling.heatmap import scale_to_bytes
from tests.segmenter.bright import to_png, write_tar

MakeTask = Callable[..., StudyTask]


def measure(task: StudyTask, **changes: object) -> float:
    """AUROC of M̂, mean over images, the long way: one image at a time, 8 bits, scikit-learn."""
    spec = replace(task.origin.spec, **changes)  # type: ignore[arg-type]
    model = task.models.original()
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
    found = []
    for specimen in read_specimens(task.corpus, ["human"], task.options.limit, owner="human"):
        latents = Latents.encode(model, [specimen])
        maps = attend(model, latents.z0, [specimen.key], prompt, spec).maps[:, 0]
        grey = Image.fromarray(scale_to_bytes(maps, latents.valid)[0].numpy())
        heat = np.asarray(grey.resize((128, 128), Image.Resampling.BILINEAR))
        found.append(roc_auc_score(specimen.truths["human"].ravel(), heat.ravel()))
    return float(np.mean(found))


def is_picture(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.width > 300 and len(image.getcolors(1 << 20) or [0] * 9) > 8


def test_every_t0_is_the_auroc_of_a_labeller_with_that_t0(make_task: MakeTask) -> None:
    study = study_timesteps(make_task())
    rows = study.figures["rows"]
    assert [row["T0"] for row in rows] == [1, 2, 3, 4] and study.figures["images"] == 3
    for count in (1, 3):
        assert rows[count - 1]["auroc_mean"] == pytest.approx(measure(make_task(), attention_steps=count), abs=2e-4)
    assert rows[0]["single_auroc_mean"] == rows[0]["auroc_mean"]
    assert is_picture(study.pictures["timesteps.png"])
    assert "| 4 |" in study.table


def test_the_concepts_token_is_the_best_of_the_prompt(make_task: MakeTask) -> None:
    study = study_tokens(make_task())
    rows = study.figures["rows"]
    assert [row["token"] for row in rows] == ["[start]", "a", "photo", "of", "a", "human", "[end]"]
    assert study.figures["best"] == "human"
    assert [row["concept"] for row in rows].index(True) == 5
    assert rows[5]["plain"]["auroc_mean"] == pytest.approx(measure(make_task()), abs=2e-4)
    assert "propagated" not in rows[0] and is_picture(study.pictures["tokens.png"])


def test_the_layers_make_up_the_labellers_map_and_each_is_measured_alone(make_task: MakeTask) -> None:
    task = make_task()
    study = study_layers(task)
    rows = study.figures["rows"]
    assert len(rows) == 6 and study.figures["images"] == 3
    assert study.figures["mean"]["auroc_mean"] == pytest.approx(measure(task), abs=2e-4)

    spec, model = task.origin.spec, task.models.original()
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
    specimens = list(read_specimens(task.corpus, ["human"], None, owner="human"))
    latents = Latents.encode(model, specimens)
    maps = layer_maps(model, latents.z0, latents.keys, prompt, spec, batch_size=4)  # the last batch has one
    whole = attend(model, latents.z0, latents.keys, prompt, spec).maps[:, 0]
    torch.testing.assert_close(torch.stack([*maps.values()]).mean(0), whole, rtol=1e-4, atol=1e-6)
    own = [
        roc_auc_score(specimen.truth("human").ravel(), shade[0].ravel())
        for specimen, shade in zip(specimens, latents.shades(maps[rows[2]["layer"]][:, None]), strict=True)
    ]
    assert rows[2]["auroc_mean"] == pytest.approx(np.mean(own), abs=2e-4)
    assert is_picture(study.pictures["layers.png"]) and "mean of all" in study.table


def test_layers_have_names_that_fit_under_a_bar() -> None:
    assert shorten("down_blocks.1.attentions.0.transformer_blocks.0.attn2") == "down\n1.0.0"
    assert shorten("mid_block.attentions.0.transformer_blocks.3.attn2") == "mid\n0.3"


def test_agreement_is_the_correlation_with_the_mean_of_the_others_within_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, valid = torch.rand(3, 6, 8, generator=generator), torch.zeros(6, 8, dtype=torch.bool)
    valid[:4] = True
    maps[:, 4:] = 99 * torch.rand(3, 2, 8, generator=generator)
    cells = maps[:, :4].flatten(1).numpy()
    expected = [np.corrcoef(cells[i], np.delete(cells, i, 0).mean(0))[0, 1] for i in range(3)]
    assert agreements(maps, valid).tolist() == pytest.approx(expected)
    assert agreements(maps[:1], valid).isnan().all()


def test_one_draw_is_that_of_a_labeller_with_its_seed(make_task: MakeTask) -> None:
    task = make_task(draws=2, repeats=2, limit=2)
    study = study_draws(task)
    found = np.array(study.figures["by_seed"])
    assert found.shape == (2, 2)
    assert found[1, 0] == pytest.approx(measure(task, seed=2), abs=2e-4)
    row = study.figures["rows"][1]
    assert row["auroc_mean"] == pytest.approx(found[:, 1].mean(), abs=1e-5)
    assert row["deviation"] == pytest.approx(found[:, 1].std(ddof=1), abs=1e-5)


def test_parts_are_measured_where_they_have_masks(make_task: MakeTask) -> None:
    task = make_task(prompt="a photo of a human with arms and legs", parts=("human", "arms", "legs"))
    study = study_parts(task)
    rows = {row["part"]: row for row in study.figures["rows"]}
    masks = [s.truths for s in read_specimens(task.corpus, ["human", "arms", "legs"], 3, owner="human")]
    assert {part: row["images"] for part, row in rows.items()} == {
        part: sum(part in truths for truths in masks) for part in ("human", "arms", "legs")
    }
    assert rows["human"]["auroc_mean"] > 0.8
    assert is_picture(study.pictures["parts.png"])


def test_a_part_without_masks_still_gets_its_picture(make_task: MakeTask) -> None:
    study = study_parts(make_task(prompt="a photo of a human and a ball", parts=("ball",), limit=1))
    assert study.figures["rows"] == [{"part": "ball", "images": 0, "auroc_mean": None, "auroc_pooled": None}]
    assert "| ball | – | – | 0 |" in study.table and is_picture(study.pictures["parts.png"])


def test_a_corpus_without_masks_is_refused_with_the_way_out(make_task: MakeTask, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "plain.png")
    with pytest.raises(EvaluationError, match=r"none of the 1 images .* give --input a corpus with KEY\.mask\.png"):
        run_study("tokens", make_task(tmp_path))


def test_figures_name_what_they_were_measured_with(make_task: MakeTask) -> None:
    task = make_task(limit=1, timesteps=2)
    study = run_study("timesteps", task)
    assert (study.figures["concept"], study.figures["model"], study.figures["images"]) == ("human", "miniature", 1)
    assert study.figures["run_fingerprint"] == task.origin.fingerprint
    urls = study.write(task.output)
    assert [Path(url).name for url in urls] == ["timesteps.png", "timesteps.md", "timesteps.json"]
    assert all(Path(url).stat().st_size for url in urls)


def test_a_mask_without_a_name_is_that_of_the_runs_own_concept(tmp_path: Path) -> None:
    image, mask = to_png(np.zeros((16, 16, 3), np.uint8)), to_png(np.ones((16, 16), np.uint8))
    write_tar(tmp_path / "scenes.tar", {"a.png": image, "a.mask.png": mask})

    def found(owner: str | None) -> list[set[str]]:
        return [set(s.truths) for s in read_specimens(str(tmp_path), ["human", "hat"], None, owner=owner, bare=True)]

    assert found("human") == [{"human"}] and found(None) == [set()]
