"""What to label and how: every setting that changes the labels, and none that doesn't."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.checks import check_at_least, check_finite

METHOD_VERSION = 10
"""Raised whenever the code of the method changes the labels it yields for unchanged settings."""
SEVERAL_VERSION = 10
"""Likewise, of what labels of several concepts make of those of each; part of the fingerprint of such runs only."""

Stage = Literal["preliminary", "refined"]
MixtureRule = Literal["posterior", "midpoint"]


@dataclass(frozen=True, kw_only=True)
class RefinementSpec:
    """Settings of the second half of the method: m′ paints background over M_pre, what changes is the object.

    Attributes:
        solver: sampler of the inpainting.
        inpaint_steps: its steps.
        guidance: w between the prompts while inpainting: ε̃ = w ε(y_f) − (w−1) ε(y_b). 0 follows y_b alone.
        inpaintings: how many are made of each image, each from other noise.
        combine: how their differences become one, pixel by pixel.
        reference: what an inpainting is compared with: the image itself, or what the autoencoder makes of it.
        colour: space of the difference: mean over RGB channels of |x − x̂|, or the distance in CIELAB.
        dilate: latent cells by which M_pre grows before it is painted over.
        difference_power: δ, the power of the differences that is cut; 1 takes them as they are, as the paper does.
            Below, what differs most counts for less: an object's dull parts are kept beside its striking ones.
        heatmap_power: γ, by which M̂ weighs the differences; 0 leaves them alone, as the paper does.
        fit: pixels that the mixture is fitted to: all of the image, or those painted over.
        refined_mixture_rule: where the mixture's threshold lies.
        smoothing: iterations that spread the mask along the image's own edges; 0 leaves it out.
        closing, opening: radius, in pixels of the model's canvas, of a morphological closing or opening of M; 0 leaves
            it out.
        fill_holes: fill holes of M that lie wholly inside.
        component_heat: connected components of M are dropped if their largest M̂ is smaller than this share of the
            largest of all; 0 keeps them.
    """

    solver: Literal["ddim", "dpm++"] = "ddim"
    inpaint_steps: int = 50
    guidance: float = 0.0
    inpaintings: int = 1
    combine: Literal["mean", "median", "minimum"] = "median"
    reference: Literal["image", "decoded"] = "image"
    colour: Literal["rgb", "lab"] = "lab"
    dilate: int = 1
    difference_power: float = 0.5
    heatmap_power: float = 2.25
    fit: Literal["image", "region"] = "image"
    refined_mixture_rule: MixtureRule = "midpoint"
    smoothing: int = 20
    closing: int = 0
    fill_holes: bool = True
    opening: int = 1
    component_heat: float = 0.7

    def __post_init__(self) -> None:
        check_finite(self, "guidance", "difference_power")
        check_at_least(self, 1, "inpaint_steps", "inpaintings")
        check_at_least(self, 0, "dilate", "heatmap_power", "smoothing", "closing", "opening", "component_heat")
        if not self.difference_power > 0:
            raise ValueError(f"difference_power is {self.difference_power}; it must be positive, and 1 changes nothing")
        if self.component_heat > 1:
            raise ValueError(f"component_heat is {self.component_heat}; it is a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class LabelSpec:
    """Settings of the labelling of one concept.

    Attributes:
        concept: the word or phrase whose pixels are wanted, for example ``fire truck``.
        prompt: y_f, the text that stands for the object; must contain the concept.
        background_prompt: y_b, the text that stands for its absence.
        distractors: y_d, texts that stand for other things which the images show and which must not pass for the
            concept; asked where presence is.
        stage: how far down the method to go.
        timesteps: T, number of steps of the sampler's schedule.
        attention_steps: T0, how many timesteps enter the mean attention map.
        draws: N, noise draws per timestep.
        propagation_steps: at how many of the timesteps, least noise first, self-attention spreads M̂ over the cells that
            belong together; 0 leaves M̂ as the paper has it.
        presence_steps: at how many of the timesteps the noise is also predicted under y_b, under no words and under
            every y_d, to tell where y_f explains it best, and whether the concept is there at all; 0 leaves it out.
        advantage_power: k, by which M̂ is weighed, cell by cell, for the refined mask, with how much better y_f explains
            what is there than the others do; 0 leaves it alone, and so does asking for no presence.
        presence_threshold: a smaller presence score makes an image `absent`, with an empty mask. Of miniature scenes,
            the default loses 8 of 400 with the concept and finds 55 of 80 without it (docs/results/labelling.json).
        seed: seed of the run; a sample's noise derives from (seed, key, stage).
        mixture_rule: where the preliminary mixture's threshold lies.
        refinement: of the masks, by inpainting.
    """

    concept: str
    prompt: str
    background_prompt: str = "a photo of a background"
    distractors: tuple[str, ...] = ()
    stage: Stage = "refined"
    timesteps: int = 50
    attention_steps: int = 40
    draws: int = 1
    propagation_steps: int = 10
    presence_steps: int = 20
    advantage_power: float = 1.5
    presence_threshold: float = -0.02
    seed: int = 0
    mixture_rule: MixtureRule = "midpoint"
    refinement: RefinementSpec = field(default_factory=RefinementSpec)

    def __post_init__(self) -> None:
        if not self.concept.strip():
            raise ValueError("the concept is empty; give a word or phrase, for example --concept car")
        check_finite(self, "presence_threshold")
        check_at_least(self, 1, "timesteps", "draws")
        check_at_least(self, 0, "propagation_steps", "presence_steps", "advantage_power")
        if self.distractors and not self.presence_steps:
            raise ValueError(
                "distractors are asked where presence is, and presence_steps is 0; take at least 1, or none"
            )
        if self.prompt in self.distractors:
            raise ValueError(
                f"the distractor asks {self.prompt!r}, which is the prompt itself; write {{concept}} into the "
                "prompt, so that the distractor's word can stand in its place"
            )
        if not 1 <= self.attention_steps <= self.timesteps:
            raise ValueError(
                f"attention_steps is {self.attention_steps}; it must be between 1 and timesteps ({self.timesteps})"
            )

    @property
    def specs(self) -> tuple[LabelSpec, ...]:
        """Of each concept, as `SeveralSpec` has them: there is but one."""
        return (self,)

    def at(self, stage: Stage) -> LabelSpec:
        """The same for another stage."""
        return dataclasses.replace(self, stage=stage)

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this spec that a run's fingerprint covers, as JSON values; a run holds both stages."""
        values = dataclasses.asdict(self)
        del values["stage"]
        refinement = {f"refinement.{name}": value for name, value in values.pop("refinement").items()}
        values["distractors"] = list(self.distractors)
        return {"method_version": METHOD_VERSION, **values, **refinement}

    @classmethod
    def from_fingerprint(cls, fields: dict[str, Any], *, stage: Stage = "refined") -> LabelSpec:
        """The spec whose `fingerprint_fields` are among a run's.

        Raises:
            ValueError: they are of another version of the method, or not all there.
        """
        if (version := fields.get("method_version")) != METHOD_VERSION:
            raise ValueError(f"its labels are of version {version} of the method, this program's of {METHOD_VERSION}")
        names = {field.name for field in dataclasses.fields(cls)} - {"stage", "refinement"}
        try:
            refinement = {f.name: fields[f"refinement.{f.name}"] for f in dataclasses.fields(RefinementSpec)}
            values = {name: fields[name] for name in names}
            values["distractors"] = tuple(values["distractors"])
        except KeyError as error:
            raise ValueError(f"its settings lack {error}") from error
        return cls(**values, stage=stage, refinement=RefinementSpec(**refinement))


@dataclass(frozen=True, kw_only=True)
class SeveralSpec:
    """Settings of the labelling of several concepts at once, which share the pixels of an image.

    Attributes:
        specs: of each concept, in the order of their labels. They differ in concept and prompt only; their distractors
            are what none of the concepts is.
    """

    specs: tuple[LabelSpec, ...]
    prompt = ""

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(spec.concept for spec in self.specs)

    @property
    def concept(self) -> str:
        """All names."""
        return ", ".join(self.concepts)

    @property
    def stage(self) -> Stage:
        return self.specs[0].stage

    @property
    def seed(self) -> int:
        return self.specs[0].seed

    def at(self, stage: Stage) -> SeveralSpec:
        """The same for another stage."""
        return SeveralSpec(specs=tuple(spec.at(stage) for spec in self.specs))

    def of(self, concept: str) -> LabelSpec:
        """What finds one concept as these settings find it, before pixels are shared: the others are distractors.

        Raises:
            ValueError: it is none of them.
        """
        if concept not in self.concepts:
            raise ValueError(f"there is no {concept!r} among {self.concept}")
        own = self.specs[self.concepts.index(concept)]
        # Without presence nothing is asked of them; words of one prompt are no distractors of each other.
        rivals = [spec.prompt for spec in self.specs if spec.prompt != own.prompt and spec.presence_steps]
        return dataclasses.replace(own, distractors=(*own.distractors, *rivals))

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of these settings that a run's fingerprint covers, as JSON values."""
        values = self.specs[0].fingerprint_fields()
        del values["prompt"]
        names = {"concept": self.concept, "concepts": list(self.concepts), "prompts": [s.prompt for s in self.specs]}
        return {**values, **names, "several_version": SEVERAL_VERSION}

    @classmethod
    def from_fingerprint(cls, fields: dict[str, Any], *, stage: Stage = "refined") -> SeveralSpec:
        """The settings whose `fingerprint_fields` are among a run's; ValueError as `LabelSpec.from_fingerprint`."""
        if (version := fields.get("several_version")) != SEVERAL_VERSION:
            raise ValueError(
                f"its labels of several concepts are of version {version}, this program's of {SEVERAL_VERSION}"
            )
        pairs = zip(fields["concepts"], fields["prompts"], strict=True)
        own = [{**fields, "concept": concept, "prompt": prompt} for concept, prompt in pairs]
        return cls(specs=tuple(LabelSpec.from_fingerprint(each, stage=stage) for each in own))
