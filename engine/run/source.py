"""Where a worker gets its labeller from: something small to send to it, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from engine import storage
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.run.shard import Labels

if TYPE_CHECKING:
    from engine.diffusion.model import LatentDiffusion
    from engine.synthesis.sample import Samples
    from engine.synthesis.spec import SynthesisSpec

Precision = Literal["float32", "bfloat16"]


class RunSpec(Protocol):
    """Settings of labels, as far as every kind of labeller has them."""

    @property
    def concept(self) -> str: ...

    @property
    def prompt(self) -> str: ...

    @property
    def stage(self) -> str: ...

    @property
    def seed(self) -> int: ...


class LabellerSource(Protocol):
    """Makes labellers of one model. Picklable; holds names, not weights."""

    @property
    def model(self) -> str:
        """The model as the user named it."""

    @property
    def revision(self) -> str | None:
        """Of a hub's model."""

    def check(self, spec: Any) -> dict[str, Any]:
        """What a run's fingerprint says about the model, such as a hash of its weights.

        Raises:
            ValueError: the model is missing or unusable, or cannot express the spec's concepts and prompts.
        """

    def build(self, spec: Any, *, device: str, threads: int | None = None, weights: Sequence[bytes] = ()) -> Labels:
        """Loads the model (once per worker), with m′ of each concept if given their weights.

        Args:
            threads: limits those of the process.
        """

    def load(self, *, device: str) -> LatentDiffusion:
        """The model alone, to be fine-tuned."""


class SynthesizerSource(LabellerSource, Protocol):
    """Makes synthesizers of its model, too."""

    def check_synthesis(self, settings: SynthesisSpec) -> None:
        """Raises ValueError for samples that the model cannot make."""

    def build_synthesizer(
        self,
        spec: LabelSpec,
        settings: SynthesisSpec,
        *,
        device: str,
        threads: int | None = None,
        weights: bytes | None = None,
    ) -> Samples:
        """Loads the model (once per worker), with m′ if given its weights."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Labellers of a diffusion model: ``miniature``, an absolute local folder, or a hub id and commit.

    Attributes:
        precision: of what labels; `load` always gives float32.
        compiled: whether labellers compile their U-Nets.
    """

    model: str
    revision: str | None = None
    precision: Precision = "float32"
    compiled: bool = False

    @classmethod
    def named(
        cls, model: str, revision: str | None = None, *, precision: Precision = "float32", compiled: bool = False
    ) -> ModelSource:
        """The model of that name as this process sees it: workers have other working directories, and ask a hub later,
        when a branch or tag may have moved.

        ``miniature`` is the bundled one, also beside a folder that is called so: that is ``./miniature``.

        Raises:
            ModelError: the hub does not give that revision.
            StorageError: the name is empty.
        """
        if not model.strip():
            raise storage.StorageError("the model's name is empty; give a folder, or a hub id and its --revision")
        folder, name = Path(model).expanduser(), model
        if model != "miniature" and folder.is_dir():
            name = str(folder.resolve())
        elif model != "miniature" and revision is not None:
            from engine.diffusion.model import find_model

            revision = find_model(model, revision).name  # a snapshot's folder is named after its commit
        return cls(model=name, revision=revision, precision=precision, compiled=compiled)

    def check(self, spec: LabelSpec | SeveralSpec) -> dict[str, Any]:
        """Hash of the weights; ValueError for a missing model, for a concept or steps that it does not have, and for
        prompts that it cannot tell apart."""
        from engine.diffusion.model import hash_weights, load_tokenizer
        from engine.diffusion.prompt import check_apart, check_known, locate_concept
        from engine.diffusion.schedule import check_start, check_steps, load_scheduler

        folder = self._find()
        tokenizer = load_tokenizer(folder)
        for own in spec.specs:
            locate_concept(tokenizer, own.prompt, own.concept)
            check_known(tokenizer, own.prompt)
        first, scheduler = spec.specs[0], load_scheduler(folder)
        check_steps(scheduler, first.timesteps)
        if spec.stage == "refined":
            check_start(scheduler, first.refinement.inpaint_steps, first.refinement.solver)
        background = first.background_prompt if spec.stage == "refined" or first.presence_steps else None
        for prompt in (*([] if background is None else [background]), *first.distractors):
            check_known(tokenizer, prompt)
        prompts = [own.prompt for own in spec.specs]
        check_apart(tokenizer, prompts, background=background, distractors=first.distractors)
        return {"model_weights": hash_weights(folder)}

    def check_synthesis(self, settings: SynthesisSpec) -> None:
        """Raises ModelError for steps that the model's schedule does not have, or that do not begin with its noise."""
        from engine.diffusion.schedule import check_start, check_steps, load_scheduler

        scheduler = load_scheduler(self._find())
        if settings.begins_from_noise:
            check_start(scheduler, settings.steps, settings.solver)
        else:
            check_steps(scheduler, settings.steps)

    def build(
        self,
        spec: LabelSpec | SeveralSpec,
        *,
        device: str,
        threads: int | None = None,
        weights: Sequence[bytes] = (),
    ) -> Labels:
        """Loads the model onto the device."""
        import torch

        from engine.labelling.labeller import Labeller
        from engine.labelling.several import SeveralLabeller

        if threads is not None:
            torch.set_num_threads(threads)
        model = self._load(device, self.precision)
        if isinstance(spec, SeveralSpec):
            return SeveralLabeller(model, spec, weights=weights, compiled=self.compiled)
        return Labeller(model, spec, weights=weights[0] if weights else None, compiled=self.compiled)

    def build_synthesizer(
        self,
        spec: LabelSpec,
        settings: SynthesisSpec,
        *,
        device: str,
        threads: int | None = None,
        weights: bytes | None = None,
    ) -> Samples:
        """Loads the model onto the device."""
        import torch

        from engine.synthesis.synthesizer import Synthesizer

        if threads is not None:
            torch.set_num_threads(threads)
        return Synthesizer(self._load(device, self.precision), spec, settings, weights=weights)

    def load(self, *, device: str) -> LatentDiffusion:
        """The model, on the device."""
        return self._load(device, "float32")

    def _load(self, device: str, precision: Precision) -> LatentDiffusion:
        import torch

        from engine.diffusion.model import load_model

        return load_model(self._find(), device=device, dtype=getattr(torch, precision))

    def _find(self) -> Path:
        # Found by every worker for itself: what is bundled, or cached from the hub, lies elsewhere on other
        # nodes.
        from engine.diffusion.model import find_model
        from engine.miniature import model_path

        return find_model(str(model_path()) if self.model == "miniature" else self.model, self.revision)
