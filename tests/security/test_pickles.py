"""Pickles and code, planted wherever somebody else's files come in: refused or left alone, and never executed."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import plan_leases
from engine.diffusion.model import ModelError, find_model, load_model
from engine.evaluation.features import load_features
from engine.labelling.spec import LabelSpec
from engine.miniature import model_path
from engine.run.concept import check_adapter
from engine.run.directory import RunError
from engine.run.fake import FakeLabeller
from engine.run.shard import label_lease
from engine.segmenter.files import SegmenterConfig, SegmenterError
from engine.segmenter.segmenter import Segmenter
from tests.corpus.hostile import draw_noise, encode, make_tar
from tests.run.test_shard import make_run

ROOT = Path(__file__).parents[2]
SPEC = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")
KINDS = ("pickle", "pkl", "pyd", "pth", "pt", "joblib", "npy")


def test_the_canary_would_appear(tmp_path: Path) -> None:
    from tests.security.conftest import Planted

    pickle.loads(pickle.dumps(Planted(tmp_path / "sung"))).close()
    assert (tmp_path / "sung").exists()


def test_pickles_in_a_tar_are_left_alone_and_counted(tmp_path: Path, bomb: bytes) -> None:
    image = encode(draw_noise(1), "JPEG")
    members = [("a.jpg", image), *((f"a.{kind}", bomb) for kind in KINDS), ("b.jpg", image), ("only.pkl", bomb)]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(make_tar(members))
    (lease,) = plan_leases(list_shards(str(tmp_path / "corpus")))
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path / "run"))
    assert (receipt.labelled, receipt.quarantined) == (2, {"no_image": 1})
    assert receipt.ignored == {**dict.fromkeys(KINDS, 1), "pkl": 2}


def plant_model(folder: Path, part: str, weights: bytes, name: str) -> Path:
    """The miniature with other weights in one part."""
    shutil.copytree(model_path(), folder, copy_function=shutil.os.symlink)  # type: ignore[attr-defined]
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    (folder / part / name).write_bytes(weights)
    return folder


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_in_pickles_is_refused_by_name(tmp_path: Path, bomb: bytes, part: str) -> None:
    folder = plant_model(tmp_path / "model", part, bomb, "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(diffusion_pytorch_model\.bin\)"):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("part", "name"), [("unet", "diffusion_pytorch_model.safetensors"), ("text_encoder", "model.safetensors")]
)
def test_a_pickle_that_calls_itself_safetensors_is_refused(tmp_path: Path, bomb: bytes, part: str, name: str) -> None:
    folder = plant_model(tmp_path / "model", part, bomb, name)
    (folder / part / "pytorch_model.bin").write_bytes(bomb)  # nor does anybody fall back to this one
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(find_model(str(folder)))


def test_code_beside_a_model_is_not_run(tmp_path: Path, canary: Path) -> None:
    folder = plant_model(tmp_path / "model", "scheduler", b"{}", "unused.json")
    code = f"open({str(canary)!r}, 'w')\nclass Evil: ...\n"
    for part in ("text_encoder", "tokenizer", "unet"):
        (folder / part / "evil.py").write_text(code)
    for config, entry in (
        (folder / "text_encoder" / "config.json", {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}),
        (folder / "tokenizer" / "tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
    ):
        values = {**json.loads(config.read_text()), "auto_map": entry}
        config.unlink()
        config.write_text(json.dumps(values))
    load_model(find_model(str(folder)))


def test_an_adapter_in_a_pickle_is_refused(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bomb)
    with pytest.raises(RunError, match="cannot be read"):
        check_adapter(str(tmp_path), SPEC, {})


def test_a_segmenter_in_a_pickle_is_refused(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "config.json").write_text(SegmenterConfig(concept="car", width=8, short_side=64).to_json())
    (tmp_path / "model.safetensors").write_bytes(bomb)
    with pytest.raises(SegmenterError, match="damaged"):
        Segmenter.from_pretrained(tmp_path)


def test_a_torch_checkpoint_for_a_segmenter_is_refused(tmp_path: Path, canary: Path) -> None:
    from tests.security.conftest import Planted

    (tmp_path / "config.json").write_text(SegmenterConfig(concept="car", width=8, short_side=64).to_json())
    torch.save({"weights": Planted(canary)}, tmp_path / "model.safetensors")
    with pytest.raises(SegmenterError, match="damaged"):
        Segmenter.from_pretrained(tmp_path)


def test_a_feature_network_in_a_pickle_is_refused(tmp_path: Path, bomb: bytes) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "features.onnx").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"features\.onnx"):
        load_features(str(tmp_path / "features.onnx"))


def test_a_download_is_pinned_and_brings_neither_pickles_nor_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(model_path())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    find_model("owner/name", "0123abc")
    assert (asked["name"], asked["revision"]) == ("owner/name", "0123abc")
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list) and all(p.endswith((".json", ".txt", ".safetensors")) for p in patterns)
    with pytest.raises(ModelError, match="--revision"):
        find_model("owner/name")


FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "np.load",
    "torch.hub.load",
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "subprocess", "webdataset"}


def test_no_module_unpickles_or_runs_or_trusts_anything() -> None:
    paths = [path for folder in ("engine", "jobs", "schemas") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 100
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & FORBIDDEN_MODULES, path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in FORBIDDEN, path
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code", "False") == "False", path
                assert given.get("use_safetensors", "True") == "True", path


def test_arrays_are_not_read_either(tmp_path: Path, canary: Path) -> None:
    """A .npy of objects is a pickle."""
    from tests.security.conftest import Planted

    np.save(tmp_path / "a.npy", np.array([Planted(canary)], dtype=object), allow_pickle=True)
    image = encode(draw_noise(1), "JPEG")
    (tmp_path / "corpus").mkdir()
    tar = make_tar([("a.jpg", image), ("a.npy", (tmp_path / "a.npy").read_bytes())])
    (tmp_path / "corpus" / "000000.tar").write_bytes(tar)
    (lease,) = plan_leases(list_shards(str(tmp_path / "corpus")))
    assert label_lease(lease, FakeLabeller("fake", SPEC), make_run(tmp_path / "run")).ignored == {"npy": 1}
