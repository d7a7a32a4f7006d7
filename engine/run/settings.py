"""What a run was made with, read back from its directory: for what comes after the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import storage
from engine.labelling.spec import LabelSpec
from engine.run.concept import check_adapter, find_concept, weights_url
from engine.run.directory import RunError, read_manifest
from engine.run.options import find_input
from engine.run.source import LabellerSource, ModelSource
from schemas.run import RunManifest

if TYPE_CHECKING:
    from engine.diffusion.model import LatentDiffusion
    from engine.distillation.weights import ConceptModel


@dataclass(frozen=True, kw_only=True, eq=False)
class RunModels:
    """m and m′ on one device; without an m′, m stands in for it. The latest asked for is the one to use."""

    model: LatentDiffusion
    concept: ConceptModel | None = None

    def original(self) -> LatentDiffusion:
        """m."""
        return self.concept.original() if self.concept else self.model

    def distilled(self) -> LatentDiffusion:
        """m′."""
        return self.concept.distilled() if self.concept else self.model


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a run.

    Attributes:
        url: the run directory, absolute.
        spec: of the labels, down to the refined ones.
        source: of m.
        weights: URL of m′, None where m does all (or m′ is not there yet).
        input: the corpus as the run was told; None if it does not say.
        fingerprint: hash of the run's fingerprint.
        model_weights: what the fingerprint says of m's weights.
    """

    url: str
    spec: LabelSpec
    source: LabellerSource
    weights: str | None
    input: str | None
    fingerprint: str
    model_weights: str

    def load(self, *, device: str) -> RunModels:
        """m, and m′ where the run has made it.

        Raises:
            ValueError: the model has other weights than when the run was started, or is gone.
        """
        from engine.distillation.weights import ConceptModel

        found = self.source.check(self.spec)["model_weights"]
        if found != self.model_weights:
            raise RunError(
                f"the model {self.source.model} has the weights {found}, the run {storage.redact(self.url)} was made "
                f"with {self.model_weights}; bring the old model back, or label anew"
            )
        model = self.source.load(device=device)
        concept = ConceptModel.load(model, storage.read_bytes(self.weights)) if self.weights else None
        return RunModels(model=model, concept=concept)


def read_settings(run_url: str) -> RunSettings:
    """The settings of a run directory, from its `run.json` and what lies beside that.

    Raises:
        RunError: no run, an unreadable one, or one of another version of the method.
    """
    url = storage.absolute(run_url)
    path, manifest = storage.join(url, "run.json"), read_manifest(url)
    fields, config = manifest.fingerprint, manifest.config
    model = _section(config, "model").get("model")
    if not isinstance(model, str):
        raise RunError(f"{storage.redact(path)} does not name the model; label anew with jobs/label.py")
    try:
        spec = LabelSpec.from_fingerprint(fields)
    except ValueError as error:
        raise RunError(f"{storage.redact(path)} cannot be studied: {error}; label the images again") from error
    corpus = config.get("input_url") or _section(config, "where").get("input")
    return RunSettings(
        url=url,
        spec=spec,
        source=ModelSource.named(model, _section(config, "model").get("revision")),
        weights=_find_weights(url, manifest, spec),
        input=find_input(corpus, spec.concept) if isinstance(corpus, str) else None,
        fingerprint=manifest.hash,
        model_weights=str(fields.get("model_weights")),
    )


def _find_weights(url: str, manifest: RunManifest, spec: LabelSpec) -> str | None:
    """Where the run's m′ is: made by itself, or given to it as an adapter."""
    fields = manifest.fingerprint
    if "distillation.adapter" in fields:
        adapter = _section(manifest.config, "stage").get("adapter")
        model = {"model_weights": fields.get("model_weights")}
        file, found = check_adapter(storage.absolute(str(adapter)), spec, model)
        if found["distillation.adapter"] != fields["distillation.adapter"]:
            raise RunError(
                f"{storage.redact(file)} is not the adapter that {storage.redact(url)} was started with; bring that "
                "one back, or label anew"
            )
        return file
    return weights_url(url) if find_concept(url, manifest.hash) is not None else None


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}
