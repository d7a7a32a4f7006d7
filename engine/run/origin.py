"""What a run was labelled with, found out from the run directory alone, to go on from there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from engine import storage
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.run.concept import check_adapter, weights_url
from engine.run.directory import FIRST, RunError, find_corpus_url, read_manifest
from engine.run.names import concept_url
from engine.run.source import ModelSource, SynthesizerSource
from engine.run.training import find_training
from schemas.run import RunManifest

if TYPE_CHECKING:
    from engine.distillation.weights import ConceptModel
    from engine.labelling.labeller import Labeller

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A labelled run of one concept, or what one of several was labelled with, as others build on it.

    Attributes:
        url: of the run directory, absolute.
        weights: URL of m′, None where m does all.
        fields: what a fingerprint says about m and m′.
        fingerprint: hash of the run's own.
        input: the corpus that was labelled; None if the run does not say.
        several: whether the run has other concepts beside the spec's.
    """

    url: str
    spec: LabelSpec
    source: SynthesizerSource
    weights: str | None
    fields: dict[str, Any]
    fingerprint: str
    input: str | None = None
    several: bool = False

    def build_labeller(self, *, device: str) -> Labeller:
        """What labels as the run did, in its precision, and hands out backgrounds as well."""
        weights = [storage.read_bytes(self.weights)] if self.weights else []
        labeller = cast("Labeller", self.source.build(self.spec, device=device, weights=weights))
        labeller.keep_backgrounds = True
        return labeller

    def load(self, *, device: str) -> ConceptModel:
        """m, and m′ where the run has made it; in float32, whatever the run labelled in."""
        from engine.distillation.weights import ConceptModel

        weights = storage.read_bytes(self.weights) if self.weights else None
        return ConceptModel.load(self.source.load(device=device), weights)


def find_origin(
    url: str,
    *,
    concept: str | None = None,
    source: SynthesizerSource | None = None,
    model: str | None = None,
    revision: str | None = None,
    adapter: str | None = None,
    unfinished: bool = False,
) -> Origin:
    """Settings, model and m′ of a run.

    Args:
        concept: of a run of several, the one to go on with: the others are its distractors. A run of one has its own.
        source: of the model, instead of the one that the run names.
        model, revision, adapter: where these lie now, if elsewhere than when the run started.
        unfinished: take a run whose m′ is still to be made as one without.

    Raises:
        RunError: no run of jobs/label.py, no such concept, no finished m′, another version of the method, or a model or
            m′ that has changed since.
        ValueError: the model is missing or unusable.
    """
    url = storage.absolute(url)
    shown = storage.redact(url)
    manifest = read_manifest(url)
    if manifest.kind != "labels":
        raise RunError(f"{shown} holds {manifest.holds}; this takes a run of jobs/label.py, and its diffusion model")
    several, own = (manifest.fingerprint.get(name) for name in ("concepts", "concept"))
    if several and concept is None:
        raise RunError(f"{shown} is a run of several concepts ({own}); name one of them with --concept")
    if concept not in (several or [None, own]):
        raise RunError(f"--concept {concept} is not the run's, which is {own}: name what {shown} has")
    try:
        if several:
            spec = SeveralSpec.from_fingerprint(manifest.fingerprint).of(str(concept))
        else:
            spec = LabelSpec.from_fingerprint(manifest.fingerprint)
    except ValueError as error:
        raise RunError(f"{shown} cannot be built on: {error}; label the images again, in another --run") from error
    if source is None:
        source = _named_source(manifest, shown, model, revision)
    model_fields = source.check(spec)
    for name, value in model_fields.items():
        if manifest.fingerprint.get(name) != value:
            raise RunError(
                f"the model {source.model} is not the one that {shown} was labelled with ({name}: "
                f"{manifest.fingerprint.get(name)} -> {value}); give that one with --model or --revision"
            )
    weights, digest = _find_weights(url, manifest, spec, model_fields, adapter, unfinished)
    return Origin(
        url=url,
        spec=spec,
        source=source,
        weights=weights,
        fields={**model_fields, "concept_weights": digest},
        fingerprint=manifest.hash,
        input=find_corpus_url(manifest),
        several=several is not None,
    )


def _named_source(manifest: RunManifest, shown: str, model: str | None, revision: str | None) -> ModelSource:
    named = manifest.config.get("model")
    if model is None and isinstance(named, dict):
        model, revision = named.get("model"), revision or named.get("revision")
    if model is None:
        raise RunError(f"the run.json of {shown} does not say which model was used; give it with --model")
    return ModelSource.named(model, revision, precision=manifest.fingerprint.get("precision", "float32"))


def _find_weights(
    url: str, manifest: RunManifest, spec: LabelSpec, model: dict[str, Any], adapter: str | None, unfinished: bool
) -> tuple[str | None, str | None]:
    """URL and SHA-256 of m′ of the spec's concept; both None in a run without fine-tuning."""
    wanted = manifest.fingerprint.get("distillation.adapter")
    if wanted is not None:
        stage = manifest.config.get("stage")
        given = adapter
        if given is None and isinstance(stage, dict):
            given = stage.get("adapter")
        if given is None or "***" in given:
            raise RunError(f"{storage.redact(url)} does not say where its --adapter lies; give it")
        file, found = check_adapter(storage.absolute(given), spec, model)
        if found["distillation.adapter"] != wanted:
            raise RunError(
                f"--adapter {storage.redact(file)} is not the one that {storage.redact(url)} was labelled with; "
                "give that one"
            )
        return file, wanted
    if adapter is not None:
        raise RunError(f"{storage.redact(url)} was labelled without --adapter; leave out {storage.redact(adapter)}")
    if manifest.fingerprint.get("distillation.method") == "none":
        logger.warning("%s was labelled without fine-tuning: the model itself stands in for m′", storage.redact(url))
        return None, None
    one_of = spec.concept if manifest.fingerprint.get("concepts") else None
    receipt = find_training(concept_url(url, one_of), manifest.hash)
    if receipt is None and unfinished:
        return None, None
    if receipt is None:
        raise RunError(f"{storage.redact(url)} has no finished fine-tuning; {FIRST}")
    return weights_url(url, one_of), receipt.weights["sha256"]
