"""What comes out of a corpus: a sample, or the account of something that could not become one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image as found in a shard, still encoded.

    `shard` is the file name of the tar, or ``folder-000000`` and so on in a folder of images. `key`, unique
    in a shard, is the path inside it up to the first dot of the file name (in a folder: without extension).
    `masks` holds ground truth as encoded PNGs, by concept; ``""`` is for ``key.mask.png``. It stays empty
    unless it is asked for: labelling never reads it.
    """

    shard: str
    key: str
    image: bytes
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, bytes] = field(default_factory=dict)

    def truth(self, concept: str, *, alone: bool = True) -> bytes | None:
        """The encoded mask of a concept: the one named after it, or the unnamed one unless that is another's.

        Args:
            alone: whether an unnamed mask is the concept's where the JSON names none, as where it is the only one
                asked for; else it is that of the concept which the JSON names.
        """
        data = self.masks.get(concept)
        return self.masks.get("") if data is None and self.is_of(concept, alone=alone) else data

    def is_of(self, concept: str, *, alone: bool = True) -> bool:
        """Whether what the sample has without a name is the concept's, as `truth` says."""
        return bool(self.metadata.get("concept", concept if alone else None) == concept)

    def lacks(self, concept: str) -> bool:
        """Whether the JSON says that the image shows something else, or nothing (null), and no mask says otherwise."""
        return self.metadata.get("concept", concept) != concept and concept not in self.masks


@dataclass(frozen=True, kw_only=True)
class Defect:
    """Something in a shard that cannot become a label.

    `key` is empty when the whole shard is concerned. `stage` is ``read``, ``decode`` or ``label``. `reason`
    is a short stable word to count by; `message` is one sentence for the user that names the value.
    """

    shard: str
    key: str
    stage: str
    reason: str
    message: str
    traceback: str = ""
