"""The training loop: what a batch is made of, and that neither an interruption nor the number of workers matters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.segmenter.crops import draw_batch
from engine.segmenter.examples import Example
from engine.segmenter.spec import SegmenterSpec
from engine.segmenter.train import History, train_segmenter
from tests.segmenter.bright import draw_box


def make_examples(count: int = 7) -> list[Example]:
    boxes = [draw_box(number) for number in range(count)]
    return [Example(shard="a.tar", key=str(n), image=image, mask=mask) for n, (image, mask) in enumerate(boxes)]


def make_spec(**changes: Any) -> SegmenterSpec:
    values = {"steps": 6, "batch_size": 4, "crop": 32, "short_side": 40, "width": 2, "warmup": 1, "ema_decay": 0.5}
    return SegmenterSpec(**{"precision": "float32", **values, **changes})


def number(count: int) -> list[Example]:
    """Examples that say in every pixel which they are."""
    size = (40, 48)
    return [
        Example(shard="a", key=str(n), image=np.full((*size, 3), n, np.uint8), mask=np.full(size, n % 2, bool))
        for n in range(count)
    ]


def drawn(batch: tuple[torch.Tensor, torch.Tensor]) -> list[int]:
    return ((batch[0][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("batch_size", [3, 4, 25])
def test_every_epoch_holds_each_example_once_in_another_order(batch_size: int) -> None:
    examples, spec = number(10), make_spec(batch_size=batch_size)
    order = [n for step in range(60 // batch_size + 1) for n in drawn(draw_batch(examples, spec, step=step))]
    epochs = [order[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_the_parts_of_a_batch_are_the_batch_and_another_seed_draws_another() -> None:
    examples, spec = make_examples(), make_spec()
    whole = draw_batch(examples, spec, step=5)
    parts = [draw_batch(examples, spec, step=5, own=slice(start, start + 2)) for start in (0, 2)]
    for value, *own in zip(whole, *parts, strict=True):
        assert torch.equal(value, torch.cat(own))
    assert not torch.equal(whole[0], draw_batch(examples, make_spec(seed=1), step=5)[0])


def test_a_crop_lies_anywhere_in_its_image_and_its_mask_lies_with_it() -> None:
    examples, spec = make_examples(1), make_spec(batch_size=256, flip=True, scale=1.0)
    images, masks = draw_batch(examples, spec, step=0)
    assert images.shape == (256, 3, 32, 32) and masks.shape == (256, 1, 32, 32)
    (example,) = examples
    places = set()
    for image, mask in zip(images, masks, strict=True):
        pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(pixels.min(2) > 100, mask[0].numpy() > 0)
        for mirrored, view in enumerate((pixels, pixels[:, ::-1])):
            windows = np.lib.stride_tricks.sliding_window_view(example.image, (32, 32), (0, 1)).transpose(0, 1, 3, 4, 2)
            places |= {(int(y), int(x), mirrored) for y, x in np.argwhere((windows == view).all((2, 3, 4)))}
    rows, columns = (side - 32 for side in example.mask.shape)
    assert {place[0] for place in places} == set(range(rows + 1))
    assert {place[1] for place in places} == set(range(columns + 1))
    assert {place[2] for place in places} == {0, 1}


@pytest.mark.parametrize(("scale", "smallest", "largest"), [(1.0, 32, 32), (1.25, 26, 40), (2.0, 16, 60)])
def test_crops_show_more_or_less_of_an_image_and_the_mask_goes_along(scale: float, smallest: int, largest: int) -> None:
    rows, columns = np.mgrid[:60, :80].astype(np.uint8) * 3
    image = np.stack([rows, columns, rows], 2)
    example = Example(shard="a", key="0", image=image, mask=(columns > 90) & (rows > 60))
    spec = make_spec(batch_size=256, scale=scale)
    images, masks = draw_batch([example], spec, step=0)
    pixels = (images + 1) * 127.5
    # How much of the image a step from one pixel of the crop to the next is: 1 where the window has the crop's size.
    down = pixels[:, 0].diff(dim=1)[:, 8:-8].mean((1, 2)) / 3
    across = pixels[:, 1].diff(dim=2)[..., 8:-8].mean((1, 2)).abs() / 3
    torch.testing.assert_close(down, across, atol=0.05, rtol=0)
    sides = down * 32
    assert (float(sides.min()), float(sides.max())) == pytest.approx((smallest, largest), abs=1)
    assert scale == 1 or 0.35 < (sides < 31.9).float().mean() < 0.65, "as often larger as smaller"
    inside = (pixels[:, 1] > 90) & (pixels[:, 0] > 60)
    assert (inside == (masks[:, 0] > 0)).float().mean() > 0.97 and 0.1 < masks.mean() < 0.9


def train(spec: SegmenterSpec, checkpoint: Path, **options: Any) -> tuple[dict[str, torch.Tensor], History]:
    network, history = train_segmenter(make_examples(), spec, checkpoint=str(checkpoint), **options)
    assert not network.training
    return network.state_dict(), history


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], History, Path]:
    path = tmp_path_factory.mktemp("training") / "state"
    return *train(make_spec(), path), path


class Interruption(Exception):
    pass


def test_an_interrupted_training_goes_on_where_it_was_and_ends_where_an_undisturbed_one_does(
    undisturbed: tuple[dict[str, torch.Tensor], History, Path], tmp_path: Path
) -> None:
    def stop(progress: Any) -> None:
        if progress.step == 4:
            raise Interruption

    with pytest.raises(Interruption):
        train(make_spec(), tmp_path / "state", checkpoint_every=2, on_progress=stop)
    torch.manual_seed(99)
    steps: list[int] = []
    weights, history = train(
        make_spec(), tmp_path / "state", checkpoint_every=1, on_progress=lambda progress: steps.append(progress.step)
    )
    assert steps == [3, 4, 5, 6]
    expected, expected_history, _ = undisturbed
    assert history == expected_history and len(history.losses) == 6
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_what_is_told_at_a_checkpoint_is_told_before_it_is_written(tmp_path: Path) -> None:
    def stop(step: int, *rest: Any) -> None:
        if step == 6:
            raise Interruption

    with pytest.raises(Interruption):
        train(make_spec(), tmp_path / "state", on_checkpoint=stop)
    told: list[int] = []
    train(make_spec(), tmp_path / "state", on_checkpoint=lambda step, *rest: told.append(step))
    assert told == [6], "killed in between, it is told again"


def test_a_finished_training_is_read_not_repeated(
    undisturbed: tuple[dict[str, torch.Tensor], History, Path],
) -> None:
    expected, expected_history, checkpoint = undisturbed
    steps: list[Any] = []
    weights, history = train(make_spec(), checkpoint, on_progress=steps.append)
    assert not steps and history == expected_history
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_the_first_loss_is_the_mean_cross_entropy_of_the_batch(
    undisturbed: tuple[dict[str, torch.Tensor], History, Path],
) -> None:
    from engine.segmenter.unet import build_unet

    images, masks = draw_batch(make_examples(), make_spec(), step=0)
    with torch.no_grad():
        p = build_unet(2, seed=0)(images).sigmoid().double()
    expected = -(masks * p.log() + (1 - masks) * (1 - p).log()).mean()
    assert undisturbed[1].losses[0] == pytest.approx(float(expected), rel=1e-5)
    predicted = p >= 0.5
    iou = (predicted & (masks > 0)).sum() / (predicted | (masks > 0)).sum()
    assert undisturbed[1].ious[0] == pytest.approx(float(iou), rel=1e-5)


@pytest.mark.parametrize("able", [False, True])
def test_the_forward_pass_is_in_bfloat16_where_asked_for_and_the_processor_computes_it(
    undisturbed: tuple[dict[str, torch.Tensor], History, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    able: bool,
) -> None:
    monkeypatch.setattr("engine.segmenter.train.computes_bfloat16", lambda device: able)
    weights, history = train(make_spec(precision="bfloat16"), tmp_path / "state")
    expected, in_full, _ = undisturbed
    assert (history.losses == in_full.losses) is not able
    assert history.losses == pytest.approx(in_full.losses, rel=0.01)
    assert all(value.dtype == expected[name].dtype for name, value in weights.items())


@pytest.mark.parametrize(("device", "found"), [("cpu", "avx512_bf16"), ("cpu", "amx_bf16"), ("cuda", "GPU")])
def test_hardware_is_asked_whether_it_computes_bfloat16(
    monkeypatch: pytest.MonkeyPatch, device: str, found: str
) -> None:
    from engine.segmenter.unet import computes_bfloat16

    for able in (True, False):
        capabilities = {"avx512_f": True, found: able}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=capabilities: known, raising=False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert computes_bfloat16(device) is able
        assert not computes_bfloat16("mps")


def test_boxes_are_learned(tmp_path: Path) -> None:
    spec = make_spec(steps=40, width=4, learning_rate=0.02, warmup=2, ema_decay=0.8)
    _, history = train(spec, tmp_path / "state")
    assert np.mean(history.losses[-5:]) < 0.5 * history.losses[0]
    assert np.mean(history.ious[-5:]) > 0.8


def test_without_averaging_the_last_weights_are_kept(tmp_path: Path) -> None:
    from engine.diffusion.training import Checkpoint
    from engine.segmenter.unet import build_unet

    weights, _ = train(make_spec(steps=2, ema_decay=0), tmp_path / "state")
    last = Checkpoint.load(str(tmp_path / "state"), torch.optim.Adam(build_unet(2).parameters())).weights["weights"]
    assert all(torch.equal(weights[name], value) for name, value in last.items())


def test_records_count_steps_and_epochs(undisturbed: tuple[dict[str, torch.Tensor], History, Path]) -> None:
    spec = make_spec()
    records = list(undisturbed[1].records(spec, 7))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["epoch"] for record in records] == [0, 0, 1, 1, 2, 2]
    assert records[0]["learning_rate"] == spec.learning_rate
    assert undisturbed[1].summary(spec, 7)["epochs"] == pytest.approx(24 / 7, abs=0.01)
    assert next(History(losses=[0.1], ious=[math.nan]).records(spec, 7))["iou"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 40}, "crop is 40; it must be a multiple of 16"),
        ({"crop": 16}, "crop is 16; it must be at least 32"),
        ({"short_side": 31}, "short_side is 31; it must be at least 32"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"min_quality": 2}, "min_quality is 2"),
        ({"scale": 0.5}, "scale is 0.5; it must be between 1 and 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)


def test_the_first_step_goes_as_far_as_warmup_lets_it(tmp_path: Path) -> None:
    """Adam's first step is the learning rate, whatever the gradient."""
    from engine.segmenter.unet import build_unet

    spec = make_spec(steps=1, warmup=10, ema_decay=0)
    weights, _ = train(spec, tmp_path / "state")
    before = dict(build_unet(2, seed=0).named_parameters())
    moved = max(float((weights[name] - value).abs().max().detach()) for name, value in before.items())
    assert moved == pytest.approx(spec.learning_rate / 10, rel=0.05)


def test_nothing_is_mirrored_where_that_is_not_asked_for() -> None:
    image = np.tile(np.arange(48, dtype=np.uint8)[None, :, None], (40, 1, 3))
    example = Example(shard="a", key="0", image=image, mask=image[..., 0] > 20)
    images, _ = draw_batch([example], make_spec(batch_size=64, flip=False, scale=1.0), step=0)
    assert (images.diff(dim=3) > 0).all()


def test_a_loss_that_is_no_number_ends_the_training_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.full((4, 3, 32, 32), torch.nan)
    monkeypatch.setattr("engine.segmenter.crops.images_to_tensor", lambda images: nothing)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0; lower the learning rate"):
        train(make_spec(steps=1), tmp_path / "state")
    assert not (tmp_path / "state").exists()
