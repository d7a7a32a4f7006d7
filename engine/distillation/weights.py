"""m and m′ in one place: adapters that are switched on and off, or a second U-Net; as bytes, a safetensors file."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.diffusion.model import LatentDiffusion, ModelError
from engine.distillation.notes import read_notes, write_notes
from engine.distillation.spec import Method

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
"""Layers of a U-Net that get an adapter: attention, feed-forward, and the convolutions that paint textures."""
ADAPTER = "concept"
PREFIX = "unet."
"""Of every name in the file, as diffusers' `load_lora_weights` expects it."""


class ConceptModel:
    """m and m′ on one device; with adapters they share one set of base weights, with the method none they are one.

    Ask for one, use it, ask for the other: the latest answer decides what a shared U-Net computes.
    """

    def __init__(self, model: LatentDiffusion, method: Method, *, rank: int = 0) -> None:
        self.method = method
        self._model = self._concept = model
        if method == "none":
            return
        if method == "full":
            unet = copy.deepcopy(model.unet).requires_grad_(True)
            self._concept = replace(model, unet=unet)
            return
        # α = r: an adapter counts as it is, whatever its rank.
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights=True)
        model.unet.add_adapter(config, adapter_name=ADAPTER)

    @classmethod
    def load(cls, model: LatentDiffusion, data: bytes | None) -> ConceptModel:
        """m with the weights of a file made by `pack`; None makes m stand in for m′.

        Raises:
            ModelError: not such a file, or made of another model.
        """
        if data is None:
            return cls(model, "none")
        try:
            notes, tensors = read_notes(data), load(data)
            weights = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
            method: Method = "full" if notes["method"] == "full" else "lora"
            concept = cls(model, method, rank=int(notes["rank"]))
            unet = concept._concept.unet
            if concept.method == "full":
                unet.load_state_dict(weights)
            else:
                found: Any = set_peft_model_state_dict(unet, weights, adapter_name=ADAPTER)
                absent = [name for name in found.missing_keys if ".lora_" in name]
                if found.unexpected_keys or absent:
                    raise ValueError(f"its layers do not fit ({[*found.unexpected_keys, *absent][0]})")
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            if ADAPTER in getattr(model.unet, "peft_config", {}):
                model.unet.delete_adapters(ADAPTER)
            raise ModelError(f"the weights of m′ do not belong to this model: {error}") from error
        # Not diffusers' `to`, which warns of layers to be kept in float32 even where there are none.
        torch.nn.Module.to(unet.eval().requires_grad_(False), model.device, model.unet.dtype)
        return concept

    def merged(self) -> ConceptModel:
        """The same m and m′ without adapters: two U-Nets, the second with the products of the adapters added in.

        Adapters take half as long again as the layers they sit on, which is what a second U-Net's memory buys. This one
        is used up.
        """
        if self.method != "lora":
            return self
        unet = copy.deepcopy(self.distilled().unet)
        unet.fuse_lora()
        for network in (unet, self._model.unet):
            network.unload_lora()
        self._concept, self.method = replace(self._model, unet=unet), "full"
        return self

    def original(self) -> LatentDiffusion:
        """m."""
        if self.method == "lora":
            self._model.unet.disable_adapters()
        return self._model

    def distilled(self) -> LatentDiffusion:
        """m′."""
        if self.method == "lora":
            self._model.unet.enable_adapters()
        return self._concept

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that fine-tuning changes, by name; all others do not ask for gradients."""
        for name, parameter in self._concept.unet.named_parameters():
            parameter.requires_grad_(self.method == "full" or ".lora_" in name)
        return {name: p for name, p in self._concept.unet.named_parameters() if p.requires_grad}

    def pack(self, *, rank: int, notes: dict[str, str]) -> bytes:
        """m′ as a safetensors file, the notes among its metadata. Adapters load in diffusers as they are."""
        unet = self._concept.unet
        weights = unet.state_dict() if self.method == "full" else get_peft_model_state_dict(unet, adapter_name=ADAPTER)
        tensors = {f"{PREFIX}{name}": value.detach().cpu().clone().contiguous() for name, value in weights.items()}
        return write_notes(save(tensors), {**notes, "method": self.method, "rank": str(rank), "format": "pt"})


def copy_into(targets: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Set parameters in place."""
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])
