"""The options that jobs share, and the settings they stand for. Their docstrings are the manual."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from engine.checks import naming_flags
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec, RefinementSpec
from engine.run.source import LabellerSource, ModelSource

PROFILES: dict[str, dict[str, Any]] = {
    "paper": {
        "timesteps": 50,
        "attention_steps": 40,
        "propagation_steps": 10,
        "presence_steps": 20,
        "solver": "ddim",
        "inpaint_steps": 50,
    },
    "fast": {
        "timesteps": 10,
        "attention_steps": 8,
        "propagation_steps": 4,
        "presence_steps": 8,
        "solver": "dpm++",
        "inpaint_steps": 10,
    },
}
"""Settings that a profile stands for; each is a flag of its own, too."""
CONCEPT = "{concept}"
"""What stands for the concept in a prompt."""
AT_MOST = ("attention_steps", "propagation_steps", "presence_steps")
"""Those that count some of the timesteps: where there are fewer, a profile means all of them."""

Int = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Float = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]


@dataclass(frozen=True, kw_only=True)
class What:
    """What to look for."""

    concept: str
    """The word or phrase whose pixels are wanted: car, "fire truck"."""
    prompt: str = "a photo of a {concept}"
    """The text the model is asked with, {concept} standing for the concept. Other words in it share the
    attention: --concept arms --prompt "a photo of a human with arms and legs"."""
    background_prompt: str = "a photo of a background"
    """The text that is painted where the object was, {concept} standing for the concept if there is but one."""
    distractor: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WORD")] = ()
    """Something else that the images show and that must not pass for the concept: --concept dog --distractor cat. Given
    more than once, each takes as many passes of the model for an image as --presence-steps says."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Images and labels."""

    input: str = "miniature"
    """The images: a folder or URL of WebDataset tars (DIR, 'DIR/{000000..000099}.tar', s3://bucket/corpus),
    one tar, or a folder of images. miniature: the small corpus that comes with the project."""
    run: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The run directory, a folder or URL, for labels and all that belongs to them. The same command with the
    same run directory resumes: nothing is lost and nothing is done twice. Default:
    $MASKMINE_HOME/runs/CONCEPT, where MASKMINE_HOME is ~/.maskmine unless set."""
    limit: Int = None
    """Label only the first so many images, and learn from no others."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The text-to-image diffusion model that knows the concept."""

    model: str = "miniature"
    """A local folder in diffusers format (Stable Diffusion 1.x or 2.x, safetensors), or a hub id, which needs
    --revision. miniature: the small model that comes with the project."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="REV")] = None
    """Branch, tag or commit of a hub id."""
    model_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks while they label, not while they learn. bfloat16 is for GPUs, where it is several times as fast;
    masks differ a little, and it is part of the run's fingerprint."""
    compile: bool = False
    """Compile the U-Net with torch.compile: minutes before the first image, then faster. Changes rounding only."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Where the models of the run lie now, if not where the run found them."""

    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Where the model lies now."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="REV")] = None
    """Branch, tag or commit of a hub id."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Where the --adapter of the run lies now."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings that change the labels; they are part of the run's fingerprint."""

    profile: Literal["paper", "fast"] = "paper"
    """Sets those marked below: paper is the paper's schedule, fast a shorter one with a better solver."""
    seed: int = 0
    """An image's noise depends on this and its key only, not on batches or workers."""
    timesteps: Int = None
    """T: steps of the sampler's schedule; of fewer than a profile counts below, it counts all. (paper 50, fast 10)"""
    attention_steps: Int = None
    """T0: how many of them, least noise first, the attention is averaged over. (paper 40, fast 8)"""
    propagation_steps: Int = None
    """At how many timesteps the self-attention spreads it over what belongs together; 0 leaves that out, as the
    paper does. (paper 10, fast 4)"""
    draws: int = 1
    """N: noise draws per timestep. Time is proportional to it."""
    mixture_rule: Literal["posterior", "midpoint"] = LabelSpec.mixture_rule
    """Where the threshold of the preliminary masks lies: where object and background are as likely, or midway
    between their means."""
    presence_steps: Int = None
    """At how many timesteps to look whether the concept is there at all; 0 takes it for granted. (paper 20, fast 8)"""
    advantage_power: float = LabelSpec.advantage_power
    """How much the heatmap of a refined mask is weighed with how well the prompt explains each place; 0 not at all, as
    in the paper."""
    presence_threshold: float = LabelSpec.presence_threshold
    """Images with a smaller presence get an empty mask and the flag absent. Measured on the miniature; look at the
    presence of some images before you trust it with another model."""


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Settings of the refined masks; part of the run's fingerprint."""

    solver: Annotated[Literal["ddim", "dpm++"] | None, tyro.conf.arg(metavar="{ddim,dpm++}")] = None
    """Sampler that paints the background. (paper ddim, fast dpm++)"""
    inpaint_steps: Int = None
    """Its steps. (paper 50, fast 10)"""
    guidance: float = RefinementSpec.guidance
    """w: 0 paints what --background-prompt says; below 0 also pushes away from the concept."""
    inpaintings: int = RefinementSpec.inpaintings
    """How many backgrounds are painted for each image. Time is proportional to it."""
    combine: Literal["mean", "median", "minimum"] = RefinementSpec.combine
    """How the differences to several backgrounds become one."""
    reference: Literal["image", "decoded"] = RefinementSpec.reference
    """What a painted image is compared with: the image, or what the model's autoencoder makes of it."""
    colour: Literal["rgb", "lab"] = RefinementSpec.colour
    """Colour space of the difference."""
    dilate: int = RefinementSpec.dilate
    """Latent cells by which a preliminary mask grows before it is painted over."""
    difference_power: float = RefinementSpec.difference_power
    """Below 1, dull parts of an object are kept beside striking ones; 1 leaves differences alone, as in the paper."""
    heatmap_power: float = RefinementSpec.heatmap_power
    """How much the heatmap weighs the difference; 0 not at all, as in the paper."""
    fit: Literal["image", "region"] = RefinementSpec.fit
    """Pixels the threshold is found from: all, or those painted over."""
    refined_mixture_rule: Literal["posterior", "midpoint"] = RefinementSpec.refined_mixture_rule
    """Where that threshold lies: where object and background are as likely, or midway between their means."""
    smoothing: int = RefinementSpec.smoothing
    """How often the mask is smoothed along the edges of the image; 0 leaves it out."""
    closing: int = RefinementSpec.closing
    """Radius in pixels of a morphological closing; 0 leaves it out."""
    fill_holes: bool = RefinementSpec.fill_holes
    """Fill holes of the masks."""
    opening: int = RefinementSpec.opening
    """Radius in pixels of a morphological opening, which takes away what is thin; 0 leaves it out."""
    component_heat: float = RefinementSpec.component_heat
    """Drop connected components of a mask whose heat is below this share of the hottest one's; 0 keeps all."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Settings of the fine-tuning; part of the run's fingerprint."""

    method: Literal["lora", "full", "none"] = DistillationSpec.method
    """lora: low-rank adapters; full: all weights of the U-Net, as in the paper; none: no fine-tuning."""
    steps: int = DistillationSpec.steps
    """Optimizer steps."""
    sample: int = DistillationSpec.sample
    """Images to learn from: the first ones of each shard, or of some shards spread over the corpus if it has many. Have
    the tars shuffled: where each begins with one kind of image, little else is learned from."""
    train_batch_size: int = DistillationSpec.batch_size
    """Examples per step."""
    learning_rate: Float = None
    """Default: 1e-3 for lora, 1e-4 for full."""
    rank: int = DistillationSpec.rank
    """Of the adapters."""
    precision: Literal["float32", "bfloat16"] = DistillationSpec.precision
    """Of the forward pass; bfloat16 needs a GPU."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """How to run; nothing of this changes the results."""

    workers: Int = None
    """Worker processes. Default: one per GPU of the cluster, without GPUs one per CPU."""
    max_failures: float = 0.01
    """Largest fraction of images that may end in quarantine for the exit code to be 0."""
    dry_run: bool = False
    """Check everything, print the plan, and stop."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"--max-failures is {self.max_failures}; it is a fraction between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Execution(Running):
    """How to run; nothing of this changes the labels."""

    batch_size: int = 8
    """Images labelled at once by a worker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; it must be at least 1")


def fill_in(prompt: str, word: str) -> str:
    """The prompt with a word in the concept's place."""
    return prompt.replace(CONCEPT, word)


def label_spec(what: What, method: Method, refinement: Refinement, stage: str) -> LabelSpec:
    """The settings of a labelling; ValueError, naming the flag, for one that makes no sense."""
    with naming_flags(method, refinement):
        return settings_to_spec(what, method, refinement, stage)


def settings_to_spec(what: What, method: Method, refinement: Refinement, stage: str) -> LabelSpec:
    """The same for a caller in Python: ValueError names the setting."""
    distractors = (what.distractor,) if isinstance(what.distractor, str) else tuple(what.distractor)
    if what.concept in distractors:
        raise ValueError(f"--distractor {what.concept!r} is the concept itself; name other things that the images show")
    if not all(word.strip() for word in distractors):
        raise ValueError("--distractor is empty; name something else that the images show, or leave it out")
    given = {**dataclasses.asdict(method), **dataclasses.asdict(refinement)}
    profile = PROFILES[given.pop("profile")]
    values = {name: profile[name] if value is None else value for name, value in given.items()}
    if given["attention_steps"] is None and values["timesteps"] > 0:
        values |= {name: min(values[name], values["timesteps"]) for name in AT_MOST if given[name] is None}
    refine = {field.name: values.pop(field.name) for field in dataclasses.fields(RefinementSpec)}
    return LabelSpec(
        concept=what.concept,
        prompt=fill_in(what.prompt, what.concept),
        background_prompt=fill_in(what.background_prompt, what.concept),
        distractors=tuple(fill_in(what.prompt, word) for word in dict.fromkeys(distractors)),
        stage=stage,  # type: ignore[arg-type]
        refinement=RefinementSpec(**refine),
        **values,
    )


def source_of(options: Model) -> ModelSource:
    """Where workers get the model from."""
    precision, compiled = options.model_precision, options.compile
    return ModelSource.named(options.model, options.revision, precision=precision, compiled=compiled)


def settings_to_config(options: Any, source: LabellerSource) -> dict[str, Any]:
    """The settings of a labelling as `run.json` keeps them: the model is found again in any working directory, and when
    a branch has moved."""
    config = dataclasses.asdict(options)
    config["model"] |= {"model": source.model, "revision": source.revision}
    return config


def distillation_spec(options: Distillation) -> DistillationSpec:
    """The settings of a fine-tuning; ValueError, naming the flag, for one that makes no sense."""
    values = dataclasses.asdict(options)
    with naming_flags(options, batch_size="train_batch_size"):
        return DistillationSpec(batch_size=values.pop("train_batch_size"), **values)
