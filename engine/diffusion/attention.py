"""Read the attention that image cells pay to chosen text tokens, at the price of one more value channel.

Shapes: B batch, H heads, N image cells of a layer, K text tokens, D head width, C concepts.

For softmax attention, out = P V with P = softmax(Q Kᵀ / √D). Append to V a channel that is 1 at the concept's tokens
and 0 elsewhere, and the extra output channel is Σ P[:, tokens]: exact, inside the fused kernel, without ever holding P.
Q and K get as many zero channels, which leave Q Kᵀ as it is, because fused kernels want equal widths.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

ALIGNMENT = 8
"""Fused kernels accept head widths that are multiples of this."""


class AttentionCapture:
    """While entered, the cross-attention layers of a U-Net sum up P[:, tokens] of each concept.

    Self-attention keeps its fused kernel, and the U-Net's output is what it would be without. Leaving restores the
    processors, also after an exception.

    Args:
        selector: [C, K], 1 at the tokens of each concept (`prompt.one_hot`).
        per_layer: also keep every layer apart, for studies.

    Usage: enter, then for each forward pass call the U-Net and `read` the maps.
    """

    def __init__(self, unet: UNet2DConditionModel, selector: Tensor, *, per_layer: bool = False) -> None:
        self.unet = unet
        self.per_layer = per_layer
        self.layers: dict[str, Tensor] = {}
        channels = -(-len(selector) // ALIGNMENT) * ALIGNMENT
        self._count = len(selector)
        self._columns_KC = F.pad(selector, (0, 0, 0, channels - len(selector))).T.to(unet.device, unet.dtype)
        self._sums: dict[int, Tensor] = {}
        self._seen = 0
        self._processors: dict[str, Any] = {}

    def __enter__(self) -> AttentionCapture:
        self._processors = dict(self.unet.attn_processors)
        mine = {
            name: _OneHotProcessor(self._columns_KC, self._collector(name)) if ".attn2." in name else processor
            for name, processor in self._processors.items()
        }
        assert any(isinstance(p, _OneHotProcessor) for p in mine.values()), "this U-Net has no cross-attention"
        self.unet.set_attn_processor(mine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unet.set_attn_processor(self._processors)

    def read(self, height: int, width: int) -> Tensor:
        """Mean over layers and heads of the maps since the last reading: [B, C, height, width] float32, in 0..1.

        Args:
            height, width: size of the latent that went through the U-Net; coarser layers are brought to it.
        """
        assert self._sums, "read() before any forward pass"
        total: Tensor | None = None
        for cells, sum_BNC in self._sums.items():
            rows, columns = _grid(cells, height, width)
            map_BChw = sum_BNC[..., : self._count].transpose(1, 2).unflatten(2, (rows, columns))
            map_BChw = F.interpolate(map_BChw, (height, width), mode="bilinear", align_corners=False)
            total = map_BChw if total is None else total + map_BChw
        assert total is not None
        mean = total / self._seen
        self._sums, self._seen = {}, 0
        return mean

    def _collector(self, name: str) -> Callable[[Tensor], None]:
        def collect(attention_BNC: Tensor) -> None:
            cells = attention_BNC.shape[1]
            self._sums[cells] = self._sums[cells] + attention_BNC if cells in self._sums else attention_BNC
            self._seen += 1
            if self.per_layer:
                self.layers[name.removesuffix(".processor")] = attention_BNC[..., : self._count]

        return collect


class _OneHotProcessor:
    """Cross-attention of one layer as diffusers computes it, with the selector columns appended to V."""

    def __init__(self, columns_KC: Tensor, collect: Callable[[Tensor], None]) -> None:
        self.columns_KC = columns_KC
        self.collect = collect

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None and attention_mask is None
        context = encoder_hidden_states
        if context.stride(0) == 0:  # one prompt, expanded over the batch: project it once
            context = context[:1]
        if attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        batch, heads = len(hidden_states), attn.heads
        query_BHND, key_BHKD, value_BHKD = (
            projected.unflatten(2, (heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        width, extra = query_BHND.shape[-1], self.columns_KC.shape[-1]
        columns = self.columns_KC.to(value_BHKD.dtype).expand(*value_BHKD.shape[:2], -1, -1)
        out_BHND = F.scaled_dot_product_attention(
            F.pad(query_BHND, (0, extra)),
            F.pad(key_BHKD, (0, extra)).expand(batch, -1, -1, -1),
            torch.cat([value_BHKD, columns], dim=-1).expand(batch, -1, -1, -1),
            scale=width**-0.5,
        )
        self.collect(out_BHND[..., width:].float().mean(1))
        out = out_BHND[..., :width].transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


def _grid(cells: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a layer with `cells` cells: the latent's sides halved, rounding up, as often as needed."""
    rows, columns = height, width
    while rows * columns > cells:
        rows, columns = -(-rows // 2), -(-columns // 2)
    assert rows * columns == cells, f"{cells} cells do not come from a {height}x{width} latent"
    return rows, columns
