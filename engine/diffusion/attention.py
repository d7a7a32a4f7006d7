"""Read attention at the price of one more value channel: how much of the text, or of a map, each image cell attends to.

Shapes: B batch, H heads, N image cells of a layer, K keys (text tokens, or image cells), D head width, C channels.

For softmax attention, out = P V with P = softmax(Q Kᵀ / √D). Append a column c to V, and the extra output channel is
P c: exact, inside the fused kernel, without ever holding P. In cross-attention, with c = 1 at a concept's tokens and 0
elsewhere, it is the attention to the concept. In self-attention, with a map of the image as c, it is that map spread
over the cells that attend to each other. Q and K get as many zero channels, which leave Q Kᵀ as it is, because fused
kernels want equal widths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

ALIGNMENT = 8
"""Fused kernels accept head widths that are multiples of this."""
Probe = TypeVar("Probe", bound="_Probe")


class _Probe(ABC):
    """While entered, the attention layers of one kind sum up P c of each of C columns.

    All others keep their processors, and the U-Net's output is what it would be without. Leaving restores the
    processors, also after an exception.

    Args:
        channels: C.
        per_layer: also keep every layer apart, for studies.

    Usage: enter, then for each forward pass call the U-Net and `read` the maps.
    """

    layer: ClassVar[str]
    """What the names of the layers contain."""

    def __init__(self, unet: UNet2DConditionModel, channels: int, *, per_layer: bool = False) -> None:
        self.unet = unet
        self.per_layer = per_layer
        self.layers: dict[str, Tensor] = {}
        self._channels = channels
        self._sums: dict[int, Tensor] = {}
        self._seen: dict[int, int] = {}
        self._processors: dict[str, Any] = {}

    @abstractmethod
    def columns(self, keys: int) -> Tensor:
        """c: [1 or B, K, C] for a layer with so many keys."""

    @abstractmethod
    def weight(self, cells: int) -> float:
        """Of a layer with so many image cells, in the mean over layers."""

    def __enter__(self: Probe) -> Probe:
        self._processors = dict(self.unet.attn_processors)
        mine = {
            name: _ColumnProcessor(self._columns, self._collector(name)) if self.layer in name else processor
            for name, processor in self._processors.items()
        }
        assert any(isinstance(p, _ColumnProcessor) for p in mine.values()), f"this U-Net has no {self.layer} layer"
        self.unet.set_attn_processor(mine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unet.set_attn_processor(self._processors)

    def read(self, height: int, width: int) -> Tensor:
        """Mean over layers and heads of the maps since the last reading: [B, C, height, width] float32.

        Args:
            height, width: size of the latent that went through the U-Net; coarser layers are brought to it.
        """
        assert self._sums, "read() before any forward pass"
        total, weights = torch.zeros(()), 0.0
        for cells, sum_BNC in self._sums.items():
            map_BChw = _to_latent_size(sum_BNC[..., : self._channels], height, width)
            total = total.to(map_BChw.device) + self.weight(cells) * map_BChw
            weights += self.weight(cells) * self._seen[cells]
        self._sums, self._seen = {}, {}
        return total / weights

    def read_layers(self, height: int, width: int) -> dict[str, Tensor]:
        """As `read`, but each layer's map of the last forward pass by itself; with `per_layer`."""
        self._sums, self._seen = {}, {}
        return {name: _to_latent_size(map_BNC, height, width) for name, map_BNC in self.layers.items()}

    def _columns(self, keys: int) -> Tensor:
        return F.pad(self.columns(keys), (0, -self._channels % ALIGNMENT))

    def _collector(self, name: str) -> Callable[[Tensor], None]:
        def collect(attention_BNC: Tensor) -> None:
            cells = attention_BNC.shape[1]
            self._sums[cells] = self._sums[cells] + attention_BNC if cells in self._sums else attention_BNC
            self._seen[cells] = self._seen.get(cells, 0) + 1
            if self.per_layer:
                self.layers[name.removesuffix(".processor")] = attention_BNC[..., : self._channels]

        return collect


class AttentionCapture(_Probe):
    """Sums up P[:, tokens] of each concept over the cross-attention layers, all of equal weight (paper, Eq. 4).

    Args:
        selector: [C, K], 1 at the tokens of each concept (`prompt.one_hot`).
    """

    layer = ".attn2."

    def __init__(self, unet: UNet2DConditionModel, selector: Tensor, *, per_layer: bool = False) -> None:
        super().__init__(unet, len(selector), per_layer=per_layer)
        self._columns_1KC = selector.T[None].to(unet.device, unet.dtype)

    def columns(self, keys: int) -> Tensor:
        return self._columns_1KC

    def weight(self, cells: int) -> float:
        return 1.0


class MapPropagation(_Probe):
    """Spreads `maps` over the cells that attend to each other: the mean of S c over the self-attention layers.

    Layers weigh as many cells as they have: the coarsest attend to nearly everything.

    Attributes:
        maps: [B, C, h, w], to be set before a forward pass of a batch of B.
    """

    layer = ".attn1."

    def __init__(self, unet: UNet2DConditionModel, channels: int) -> None:
        super().__init__(unet, channels)
        self.maps = torch.zeros(0)

    def columns(self, keys: int) -> Tensor:
        grid = _grid(keys, *self.maps.shape[-2:])
        return F.interpolate(self.maps, grid, mode="area").flatten(2).transpose(1, 2)

    def weight(self, cells: int) -> float:
        return float(cells)


class _ColumnProcessor:
    """Attention of one layer as diffusers computes it, with the columns appended to V."""

    def __init__(self, columns: Callable[[int], Tensor], collect: Callable[[Tensor], None]) -> None:
        self.columns = columns
        self.collect = collect

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if context.stride(0) == 0:  # one prompt, expanded over the batch: project it once
            context = context[:1]
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        batch, heads = len(hidden_states), attn.heads
        query_BHND, key_BHKD, value_BHKD = (
            projected.unflatten(2, (heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        columns = self.columns(key_BHKD.shape[2]).to(value_BHKD.dtype)[:, None].expand(-1, heads, -1, -1)
        width, extra = query_BHND.shape[-1], columns.shape[-1]
        value_BHKD = torch.cat([value_BHKD, columns.expand(len(value_BHKD), -1, -1, -1)], dim=-1)
        out_BHND = F.scaled_dot_product_attention(
            F.pad(query_BHND, (0, extra)),
            F.pad(key_BHKD, (0, extra)).expand(batch, -1, -1, -1),
            value_BHKD.expand(batch, -1, -1, -1),
            scale=width**-0.5,
        )
        self.collect(out_BHND[..., width:].float().mean(1))
        out = out_BHND[..., :width].transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


def _to_latent_size(map_BNC: Tensor, height: int, width: int) -> Tensor:
    """A layer's maps, brought bilinearly to the latent's size: [B, C, height, width]."""
    map_BChw = map_BNC.transpose(1, 2).unflatten(2, _grid(map_BNC.shape[1], height, width))
    return F.interpolate(map_BChw, (height, width), mode="bilinear", align_corners=False)


def _grid(cells: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a layer with `cells` cells: the latent's sides halved, rounding up, as often as needed."""
    rows, columns = height, width
    while rows * columns > cells:
        rows, columns = -(-rows // 2), -(-columns // 2)
    assert rows * columns == cells, f"{cells} cells do not come from a {height}x{width} latent"
    return rows, columns
