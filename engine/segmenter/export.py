"""A segmenter as an ONNX file, for programs that have neither PyTorch nor this package.

Input ``image`` is float32 [B, 3, H, W] RGB in 0..1, output ``probability`` float32 [B, 1, H, W], or of several
concepts [B, C, H, W], background first, summing to 1; B is free, H and W are multiples of 16 from 32 on. What images
are to be resized to is in the file's metadata, and the names of several concepts, as a JSON list, in their order.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from engine.extras import require
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.spec import MULTIPLE, SMALLEST
from engine.segmenter.unet import logits_to_probability

OPSET = 18
PURPOSE = "exporting"
SIZES = ((1, 64, 64), (2, 32, 96), (1, 80, 48))
"""Batch, height and width of what both are compared on."""


class ExportError(ValueError):
    """The segmenter cannot be exported; the message says why and what to do."""


class _Probability(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().eval()

    def forward(self, image: Tensor) -> Tensor:
        return logits_to_probability(self.network(image * 2 - 1))


def segmenter_to_onnx(segmenter: Segmenter) -> bytes:
    """The file's content.

    Raises:
        MissingExtra: the packages that this takes are not installed.
    """
    onnx, _ = (require(name, extra="onnx", purpose=PURPOSE) for name in ("onnx", "onnxscript"))
    network = _Probability(segmenter.network)
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height_16", "width_16"))
    shapes = {"image": {0: batch, 2: MULTIPLE * height, 3: MULTIPLE * width}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            (torch.rand(2, 3, 4 * SMALLEST, 3 * SMALLEST),),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["image"],
            output_names=["probability"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # stack traces, with paths of this machine
        node.ClearField("metadata_props")
    notes = {"concept": segmenter.config.concept, "short_side": str(segmenter.short_side), "multiple": str(MULTIPLE)}
    if segmenter.config.concepts:
        notes["concepts"] = json.dumps(segmenter.config.concepts, ensure_ascii=False)
    onnx.helper.set_model_props(model, notes)
    buffer = io.BytesIO()
    onnx.save_model(model, buffer)
    return buffer.getvalue()


def compare_onnx(data: bytes, segmenter: Segmenter) -> float:
    """Largest absolute difference of probabilities between the file, as onnxruntime runs it, and PyTorch."""
    runtime = require("onnxruntime", extra="onnx", purpose=PURPOSE)
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    network = _Probability(segmenter.network)
    worst = 0.0
    for seed, (batch, height, width) in enumerate(SIZES):
        image = np.random.default_rng(seed).random((batch, 3, height, width), dtype=np.float32)
        (theirs,) = session.run(None, {"image": image})
        with torch.no_grad():
            ours = network(torch.from_numpy(image)).numpy()
        if theirs.shape != ours.shape:
            raise ExportError(f"the exported network gives {theirs.shape} for {image.shape}, not {ours.shape}")
        worst = max(worst, float(np.abs(theirs - ours).max()))
    return worst
