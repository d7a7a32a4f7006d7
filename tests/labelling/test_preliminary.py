"""Cutting, scaling and flagging of heatmaps."""

from __future__ import annotations

import numpy as np
import torch

from engine.labelling.heatmap import scale_to_bytes
from engine.labelling.preliminary import heatmap_to_preliminary, mask_flags


def bump(cells: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    heat = torch.randn(1, cells, cells, generator=torch.Generator().manual_seed(0)) * 0.01
    truth = torch.zeros(1, cells, cells, dtype=torch.bool)
    truth[:, 4:10, 5:12] = True
    return heat + truth, truth


def test_a_bright_region_is_the_mask_but_for_its_corners():
    heat, truth = bump()
    mask = heatmap_to_preliminary(heat, torch.ones_like(truth), rule="posterior").mask
    assert not (mask & ~truth).any()
    assert int((truth & ~mask).sum()) == 4  # the 3x3 mean filter takes the four corner cells


def test_cells_outside_the_image_change_nothing():
    heat, truth = bump()
    valid = torch.ones_like(truth)
    valid[:, 12:] = False
    expected = heatmap_to_preliminary(heat[:, :12], valid[:, :12], rule="posterior").mask
    heat[:, 12:] = 100.0
    got = heatmap_to_preliminary(heat, valid, rule="posterior").mask
    assert torch.equal(got[:, :12], expected) and not got[:, 12:].any()
    assert torch.equal(scale_to_bytes(heat, valid)[:, :12], scale_to_bytes(heat[:, :12], valid[:, :12]))


def test_scaling_spans_all_bytes_and_a_constant_map_is_zero():
    heat, truth = bump()
    scaled = scale_to_bytes(heat, torch.ones_like(truth))
    assert scaled.min() == 0 and scaled.max() == 255
    assert not scale_to_bytes(torch.full((1, 4, 4), 0.3), torch.ones(1, 4, 4, dtype=torch.bool)).any()


def test_flags_name_empty_full_border_and_a_single_mode():
    mask = torch.zeros(5, 5, dtype=torch.bool)
    assert mask_flags(mask.numpy(), one_mode=True) == ["one_mode", "empty"]
    mask[2, 2] = True
    assert mask_flags(mask.numpy(), one_mode=False) == []
    mask[2, 4] = True
    assert mask_flags(mask.numpy(), one_mode=False) == ["touches_border"]
    assert mask_flags(np.ones((5, 5), bool), one_mode=False) == ["full"]
