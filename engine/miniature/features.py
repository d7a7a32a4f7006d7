"""The feature network of miniature scenes, in which FID and KID of drawn and of sampled scenes are measured.

Card of the bundled `features.onnx`. A small convolutional network (0.2 M parameters) that learned from 4,000 scenes of
seed 11 to say what they hold: which of the concepts, which clutter, which place; nothing but the scenes' descriptions
was used, no mask. Of 400 new scenes it names the place of 97 in 100; whether a concept is there it tells no better than
by always saying no (0.77 right, as many as there are noes), and clutter neither (0.63), so its distances speak of
places, colours and textures, hardly of objects. Its features are the 64 values before that answer, each with mean 0
and variance 1 over the training scenes. Input: float32 [B, 3, H, W] in 0..1, made for 128 x 128; output: float32
[B, 64]. It knows drawn scenes only: its distances mean nothing for photographs, and are not comparable with those of
other networks. Made by

    python jobs/features.py --output engine/miniature/features.onnx
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.miniature.backgrounds import PLACES
from engine.miniature.scenes import CLUTTER, Scene, draw_scene
from engine.miniature.things import CONCEPTS

WIDTH = 64
"""Features of an image."""
CHANNELS = (24, 48, 96, 128)


class Features(nn.Module):
    """Images [B, 3, H, W] in 0..1 to features [B, 64]; `answer` says what the features tell of the scene."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            kernel, stride = (7, 4) if before == 3 else (3, 2)
            conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
            blocks += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*blocks)
        self.neck = nn.Linear(CHANNELS[-1], WIDTH)
        self.scale = nn.BatchNorm1d(WIDTH, affine=False)
        self.head = nn.Linear(WIDTH, len(CONCEPTS) + len(CLUTTER) + len(PLACES))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale(self.neck(self.body(2 * images - 1).mean((2, 3))))

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits: [B, concepts + clutter] of what is there, [B, places] of where."""
        sizes = [len(CONCEPTS) + len(CLUTTER), len(PLACES)]
        there, where = self.head(torch.relu(self(images))).split(sizes, 1)
        return there, where


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Scenes as a network learns them: images [N, 3, H, W] uint8, `there` [N, K] 0 or 1, `where` [N] int64."""

    images: Tensor
    there: Tensor
    where: Tensor

    @classmethod
    def draw(cls, count: int, *, seed: int, side: int = 128) -> Scenes:
        """The first `count` scenes of a seed."""
        scenes = [draw_scene(seed, index, width=side, height=side) for index in range(count)]
        return cls(
            images=torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]),
            there=torch.tensor(np.array([_what_is_there(scene) for scene in scenes]), dtype=torch.float32),
            where=torch.tensor([list(PLACES).index(scene.metadata["place"]) for scene in scenes]),
        )


def train_features(
    scenes: Scenes,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> Features:
    """A network that has learned to describe the scenes, in evaluation mode."""
    torch.manual_seed(seed)
    network = Features()
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    steps = epochs * -(-len(scenes.images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(scenes.images)).split(batch_size):
            images = scenes.images[chosen].float() / 255
            images = images.flip(3) if torch.rand(()) < 0.5 else images
            there, where = network.answer(images)
            loss = F.binary_cross_entropy_with_logits(there, scenes.there[chosen])
            loss = loss + F.cross_entropy(where, scenes.where[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        tell(f"epoch {epoch + 1} of {epochs}: loss {total / len(scenes.images):.4f}")
    return network.eval()


@torch.no_grad()
def measure_features(network: Features, scenes: Scenes) -> dict[str, float]:
    """Fraction of the scenes whose place, and of the answers about concepts and clutter, that are right."""
    answers = [network.answer(part.float() / 255) for part in scenes.images.split(64)]
    right = (torch.cat([there for there, _ in answers]) > 0) == scenes.there.bool()
    place = torch.cat([where for _, where in answers]).argmax(1) == scenes.where
    concepts = len(CONCEPTS)
    found = {"place": place, "concepts": right[:, :concepts], "clutter": right[:, concepts:]}
    return {name: round(float(hits.float().mean()), 4) for name, hits in found.items()}


def features_to_onnx(network: Features) -> bytes:
    """The features as an ONNX file for batches and images of any size, weights inside.

    Needs the packages of the extra onnx.
    """
    names = ("batch", "height", "width")
    batch, height, width = (torch.export.Dim(name, min=2) for name in names)
    program = torch.onnx.export(
        network,
        (torch.rand(2, 3, 128, 128),),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: batch, 2: height, 3: width},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # stack traces, with paths of this machine
        node.ClearField("metadata_props")
    return model.SerializeToString()


def _what_is_there(scene: Scene) -> list[bool]:
    things: Sequence[str] = [thing["concept"] for thing in scene.metadata["things"]]
    return [name in things for name in CONCEPTS] + [name in scene.metadata["clutter"] for name in CLUTTER]
