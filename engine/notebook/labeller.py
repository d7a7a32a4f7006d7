"""Labels images at hand, as the labelling job labels a corpus.

labeller = Labeller.from_pretrained("miniature", concept="car")
label = labeller("photo.jpg")  # label.mask, label.heatmap, label.quality, label.flags
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints, overload

import numpy as np
from PIL import Image

from engine import storage
from engine.corpus.decode import Picture, to_array
from engine.labelling.spec import LabelSpec, Stage
from engine.notebook.image_label import ImageLabel
from engine.run.concept import check_adapter
from engine.run.fitting import Fitting
from engine.run.names import concept_url
from engine.run.options import Method, Refinement, What, settings_to_spec
from engine.run.origin import find_origin
from engine.run.shard import MAX_BATCH_PIXELS, Labels
from engine.run.source import ModelSource, Precision

BATCH_SIZE = 8
"""Images at once, as many as the job takes."""


class Labeller:
    """Labels images with one model, which stays on its device.

    The noise of an image derives from the seed and its key, never from the other images. With the settings, the
    fine-tuned model and the keys of a run, the labels are the rows of that run.

    Args:
        labels: what labels batches, on its device.
        spec: its settings.
    """

    def __init__(self, labels: Labels, spec: LabelSpec) -> None:
        self.spec = spec
        self._labels = Fitting(labels)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "miniature",
        *,
        concept: str,
        profile: str = "paper",
        stage: str = "refined",
        seed: int = 0,
        adapter: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        precision: Precision = "float32",
        device: str | None = None,
        **settings: Any,
    ) -> Labeller:
        """A labeller of a diffusion model, with the settings of `jobs/label.py` and under their names.

        Args:
            model: miniature, a local folder, or a hub id with its revision.
            concept: the word or phrase whose pixels are wanted.
            profile: paper or fast.
            stage: refined, or preliminary for coarse masks from the attention alone.
            adapter: a model fine-tuned on the concept: a run directory, its concept/, or the file of weights. Without,
                the model itself paints the backgrounds, as with ``--method none``.
            device: cpu, cuda, …; by default a GPU if there is one.
            settings: all others: prompt, timesteps, inpaintings, …

        Raises:
            ValueError: a setting that does not exist or makes no sense; a model, or an adapter, that does not fit.
        """
        spec = _make_spec(stage, concept=concept, profile=profile, seed=seed, **settings)
        _check_choice("precision", precision, Precision)
        source = ModelSource.named(os.fspath(model), revision, precision=precision)
        fields = source.check(spec)
        weights = []
        if adapter is not None:
            weights = [storage.read_bytes(check_adapter(_find_adapter(os.fspath(adapter)), spec, fields)[0])]
        return cls(source.build(spec, device=device or _find_device(), weights=weights), spec)

    @classmethod
    def from_run(
        cls,
        run: str | os.PathLike[str],
        *,
        concept: str | None = None,
        stage: Stage = "refined",
        model: str | None = None,
        revision: str | None = None,
        adapter: str | None = None,
        device: str | None = None,
    ) -> Labeller:
        """The labeller of a run: its model, its fine-tuned model and all of its settings.

        Args:
            run: folder or URL of a run of `jobs/label.py`.
            concept: of a run of several, the one to label. Its masks are those of the run before pixels that others
                claim as well are shared.
            model, adapter: where these lie now, if elsewhere than when the run started; revision: of a hub's model.

        Raises:
            ValueError: no such run or concept, no finished fine-tuning, or a model that has changed since.
        """
        _check_choice("stage", stage, Stage)
        unfinished = stage == "preliminary"
        origin = find_origin(
            os.fspath(run), concept=concept, model=model, revision=revision, adapter=adapter, unfinished=unfinished
        )
        spec = origin.spec.at(stage)
        weights = [storage.read_bytes(origin.weights)] if origin.weights else []
        return cls(origin.source.build(spec, device=device or _find_device(), weights=weights), spec)

    @overload  # a path is an Iterable, too, of strings
    def __call__(self, images: Picture, keys: str | None = None) -> ImageLabel: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Iterable[Picture], keys: Sequence[str] | None = None) -> list[ImageLabel]: ...

    def __call__(self, images: Any, keys: Any = None) -> Any:
        """The label of an image, or a list of those of several, in order.

        Args:
            images: one or many, each a path or URL, a PIL image, or an upright (H, W, 3) uint8 RGB array.
            keys: of the images, by which noise is drawn; by default their positions: "0", "1", …

        Raises:
            ValueError: an image that is none, or another number of keys.
            OSError: a file that cannot be read.
        """
        one = isinstance(images, (str, os.PathLike, Image.Image)) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        pictures = [images] if one else list(images)
        if keys is None:
            keys = [str(position) for position in range(len(pictures))]
        keys = [keys] if isinstance(keys, str) else list(keys)
        if len(keys) != len(pictures) or not all(isinstance(key, str) for key in keys):
            raise ValueError(f"keys are {keys!r:.80}; give one string for each of the {len(pictures)} image(s)")
        found = [label for batch in _batches(pictures, keys) for label in self._label(*batch)]
        return found[0] if one else found

    def _label(self, images: list[np.ndarray], keys: list[str]) -> list[ImageLabel]:
        labels = self._labels(images, keys)
        return [
            ImageLabel(**vars(label), key=key, image=image)
            for label, key, image in zip(labels, keys, images, strict=True)
        ]


def _batches(pictures: list[Picture], keys: list[str]) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    """Decoded images and their keys, no more at once than the job takes."""
    images: list[np.ndarray] = []
    begin = 0
    for position, picture in enumerate(pictures):
        image = _decode(picture, position)
        size = sum(other[..., 0].size for other in [*images, image])
        if images and (len(images) == BATCH_SIZE or size > MAX_BATCH_PIXELS):
            yield images, keys[begin:position]
            images, begin = [], position
        images.append(image)
    if images:
        yield images, keys[begin:]


def _decode(picture: Picture, position: int) -> np.ndarray:
    try:
        return to_array(picture)
    except ValueError as error:
        named = f" ({storage.redact(os.fspath(picture))})" if isinstance(picture, (str, os.PathLike)) else ""
        raise ValueError(f"image {position}{named} cannot be labelled: {error}") from error


def _make_spec(stage: str, **settings: Any) -> LabelSpec:
    groups = {field.name: group for group in (What, Method, Refinement) for field in dataclasses.fields(group)}
    for name, value in settings.items():
        if name not in groups:
            near = difflib.get_close_matches(name, groups, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(groups))}"
            raise ValueError(f"there is no setting {name}; {hint}")
        _check_choice(name, value, get_type_hints(groups[name])[name])
    _check_choice("stage", stage, Stage)

    def make(group: Any) -> Any:
        return group(**{name: value for name, value in settings.items() if groups[name] is group})

    return settings_to_spec(make(What), make(Method), make(Refinement), stage)


def _check_choice(name: str, value: object, kind: Any) -> None:
    choices = _choices(kind)
    if choices and value is not None and value not in choices:
        raise ValueError(f"{name} is {value!r}; give {' or '.join(map(str, choices))}")


def _choices(kind: Any) -> tuple[Any, ...]:
    """What a type allows by name; nothing for one that names no values."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _find_adapter(url: str) -> str:
    url = storage.absolute(url)
    return concept_url(url) if storage.exists(storage.join(url, "run.json")) else url


def _find_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
