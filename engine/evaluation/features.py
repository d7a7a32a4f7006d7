"""Distances between sets of images, FID and KID, in the features of a network that is given as an ONNX file.

An ONNX file is data: it is run by ONNX Runtime, and nothing in it is unpickled or executed as Python. The published
numbers use an Inception network; figures of different networks have nothing to do with one another.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from engine import storage
from engine.evaluation.rows import EvaluationError
from engine.extras import require

BATCH = 32
WAY_OUT = "give --features an ONNX file from float32 images [B, 3, H, W] in 0..1 to features [B, d], or miniature"


class FeatureNetwork:
    """Features [B, d] of images; images of another size than the network's are resized to it.

    Args:
        data: bytes of the ONNX file; weights in other files are not read.
        name: what errors call it.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        EvaluationError: the file is no such network.
    """

    def __init__(self, data: bytes, *, name: str, device: str = "cpu") -> None:
        onnxruntime = require("onnxruntime", extra="onnx", purpose="a feature network")
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        providers = [p for p in (*wanted, "CPUExecutionProvider") if p in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:  # the runtime's exceptions have no common class
            raise EvaluationError(f"{name} is no usable ONNX file ({error}); {WAY_OUT}") from error
        self.name = name
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            found = ", ".join(f"{each.type}{each.shape}" for each in inputs)
            raise EvaluationError(f"{name} takes {found}; {WAY_OUT}")
        self._input = inputs[0].name
        batch, _, height, width = inputs[0].shape
        self._size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self._at_once = batch if isinstance(batch, int) else None

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] float in 0..1 to float64 [B, d] on the CPU."""
        images = images.float().cpu()
        if self._size and images.shape[-2:] != self._size:
            images = F.interpolate(images, self._size, mode="bilinear", antialias=True, align_corners=False)
        return torch.cat([self._run(part) for part in images.split(self._at_once or BATCH)])

    def _run(self, images: Tensor) -> Tensor:
        missing = (self._at_once or len(images)) - len(images)
        padded = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        try:
            found: Any = self._session.run(None, {self._input: padded.numpy()})[0]
        except Exception as error:
            raise EvaluationError(f"{self.name} does not take images of {tuple(images.shape)}: {error}") from error
        if found.ndim != 2:
            raise EvaluationError(f"{self.name} yields an array of shape {found.shape}, not [B, d]; {WAY_OUT}")
        return torch.from_numpy(found)[: len(images)].double()


def load_features(name: str, *, device: str = "cpu") -> FeatureNetwork:
    """The feature network of an ONNX file; ``miniature`` is the bundled one, which knows miniature scenes only.

    Raises:
        EvaluationError: no such file, or not a feature network.
    """
    from engine.miniature import features_path

    url = str(features_path()) if name == "miniature" else storage.absolute(name)
    try:
        data = storage.read_bytes(url)
    except OSError as error:
        raise EvaluationError(
            f"the feature network {storage.redact(url)} cannot be read: {error}; {WAY_OUT}"
        ) from error
    return FeatureNetwork(data, name=storage.redact(name), device=device)


class Distances:
    """FID and KID of sets of images to one set of real ones, whose features are computed once."""

    def __init__(self, network: FeatureNetwork) -> None:
        self._network = network
        self._real: list[Tensor] = []

    @property
    def real(self) -> int:
        """Number of real images."""
        return sum(map(len, self._real))

    def add_real(self, images: Tensor) -> None:
        """Add real images [B, 3, H, W] in 0..1."""
        self._real.append(self._network(images))

    def to(self, images: Tensor) -> dict[str, float]:
        """``fid`` and ``kid`` of the images [B, 3, H, W] in 0..1."""
        return distances(torch.cat(self._real), self._network(images))


def distances(real: Tensor, made: Tensor) -> dict[str, float]:
    """Fréchet distance (Heusel et al. 2017) and unbiased kernel distance (Bińkowski et al. 2018) of features [n, d].

    Raises:
        EvaluationError: fewer than two of either.
    """
    if min(len(real), len(made)) < 2:
        raise EvaluationError(f"{len(real)} real and {len(made)} made images are too few; a distance needs two of each")
    given = _Given(real.shape[1])
    fid = FrechetInceptionDistance(feature=given)
    size = min(len(real), len(made))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features
        kid = KernelInceptionDistance(feature=given, subsets=1, subset_size=size)
    for features, is_real in ((real, True), (made, False)):
        fid.update(features, real=is_real)
        kid.update(features[:size], real=is_real)
    return {"fid": max(0.0, float(fid.compute())), "kid": float(kid.compute()[0])}


class _Given(nn.Module):
    """Features pass as they are: they have been computed already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features
