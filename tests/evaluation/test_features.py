"""FID and KID against independent references; feature networks as ONNX files of several shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from engine.evaluation.features import Distances, FeatureNetwork, distances, load_features
from engine.evaluation.rows import EvaluationError
from engine.miniature.scenes import draw_scene

onnx = pytest.importorskip("onnx")


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017, Eq. 6, with a matrix square root."""
    apart = a.mean(0) - b.mean(0)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(apart @ apart + np.trace(one + two - 2 * sqrtm(one @ two).real))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased MMD² with k(x, y) = (x y / d + 1)³, pair by pair."""
    k = lambda x, y: (x @ y / a.shape[1] + 1) ** 3  # noqa: E731
    n = len(a)
    within = sum(k(s[i], s[j]) for s in (a, b) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return float(within - 2 * sum(k(x, y) for x in a for y in b) / n**2)


@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_the_references(seed: int) -> None:
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    made = rng.normal(0.3, 1.2, size=(40, 6)) @ rng.normal(size=(6, 6))
    found = distances(torch.from_numpy(real), torch.from_numpy(made))
    assert found["fid"] == pytest.approx(frechet(real, made), rel=1e-6)
    assert found["kid"] == pytest.approx(kernel_distance(real, made), rel=1e-6)


def test_a_set_is_at_no_distance_from_itself() -> None:
    features = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distances(features, features)["fid"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(EvaluationError, match="1 real and 30 made images are too few"):
        distances(features[:1], features)


def mean_colour(*, batch: str | int = "B", side: str | int = "S", channels: int = 3) -> bytes:
    """A network whose features are the mean of each channel."""
    value = onnx.helper.make_tensor_value_info
    images = value("x", onnx.TensorProto.FLOAT, [batch, channels, side, side])
    features = value("y", onnx.TensorProto.FLOAT, [batch, channels])
    pool = onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"])
    flat = onnx.helper.make_node("Flatten", ["p"], ["y"])
    graph = onnx.helper.make_graph([pool, flat], "g", [images], [features])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.mark.parametrize("settings", [{}, {"side": 8}, {"batch": 2}, {"batch": 2, "side": 8}])
def test_networks_of_fixed_size_and_batch_get_what_they_want(settings: dict) -> None:
    network = FeatureNetwork(mean_colour(**settings), name="net.onnx")
    images = torch.rand(3, 3, 16, 16)
    assert torch.allclose(network(images), images.mean((2, 3)).double(), atol=1e-2 if "side" in settings else 1e-6)


def test_what_is_no_feature_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"absent\.onnx cannot be read"):
        load_features(str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(EvaluationError, match="is no usable ONNX file"):
        load_features(str(tmp_path / "text.onnx"))
    with pytest.raises(EvaluationError, match="does not take images"):
        FeatureNetwork(mean_colour(channels=4), name="four.onnx")(torch.rand(2, 3, 16, 16))


def test_the_bundled_network_tells_other_scenes_from_scenes_alike() -> None:
    def draw(seed: int, count: int, noise: float = 0.0) -> torch.Tensor:
        images = [torch.from_numpy(draw_scene(seed, index).image).permute(2, 0, 1) / 255 for index in range(count)]
        return (torch.stack(images) + noise * torch.randn(count, 3, 128, 128)).clamp(0, 1)

    torch.manual_seed(0)
    reference = Distances(load_features("miniature"))
    reference.add_real(draw(3, 48))
    alike, noisy = reference.to(draw(5, 48)), reference.to(draw(5, 48, noise=0.2))
    assert alike["fid"] < noisy["fid"] and alike["kid"] < noisy["kid"]
