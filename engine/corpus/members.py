"""Names inside a shard: what belongs to which sample, what is refused, what is left over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.corpus.sample import Defect

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
MASK_SUFFIX = "mask.png"
_NAMES_SHOWN = 5
_KINDS_SHOWN, _LONGEST_KIND = 20, 40
# webdataset's rule for members that describe the archive, and the folder that macOS adds to archives.
_ABOUT_THE_ARCHIVE = re.compile(r"__[^/]*__($|[/.])|__MACOSX/")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a shard: `name` in full, its `key` and `suffix`, and (in a tar) where its bytes are."""

    name: str
    key: str
    suffix: str
    offset: int = 0
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """The members that make one sample. `masks` is by concept, ``""`` for the mask without a name."""

    key: str
    image: Member
    caption: Member | None = None
    metadata: Member | None = None
    masks: dict[str, Member] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a shard holds, known from names alone.

    `items` come in the order of their first member; `shard_defects` concern the shard as a whole; `ignored` counts the
    members that are never read, by suffix.
    """

    items: list[Group | Defect]
    shard_defects: list[Defect] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)

    def deal(self, *, part: int = 0, parts: int = 1, limit: int | None = None) -> list[Group | Defect]:
        """The items of one of `parts` stretches, which are of equal number up to one. Defects of the whole shard belong
        to the first.

        With a `limit` the stretch is taken to end after its first `limit` samples, and what is found behind that end
        is not reported, defects of the whole shard included.
        """
        each, more = divmod(len(self.items), parts)
        start = part * each + min(part, more)
        items = self.items[start : start + each + (part < more)]
        if limit is not None and limit < count_samples(items):
            places = [place for place, item in enumerate(items) if isinstance(item, Group)]
            return items[: places[limit]]
        return [*items, *self.shard_defects] if part == 0 else items


def count_samples(items: Iterable[Group | Defect]) -> int:
    return sum(isinstance(item, Group) for item in items)


def split_tar_name(name: str) -> tuple[str, str]:
    """Key and suffix of a tar member by webdataset's rule: the file name is split at its first dot."""
    base = name.rpartition("/")[2]
    stem, _, suffix = base.partition(".")
    return name[: len(name) - len(base)] + stem, suffix


def assign_folder_keys(sizes: dict[str, int]) -> list[Member]:
    """The images among relative paths (with sizes in bytes) and what belongs to them, sorted by key.

    File names may have dots: unlike in a tar, the key is the whole path without the image's extension, so
    that ``IMG.0001.jpg`` and ``IMG.0002.jpg`` are two images. Files that belong to no image are left out.
    """
    names = sorted(name for name in sizes if not is_hidden(name))
    images = {n for n in names if is_image(n.rpartition(".")[2]) and not n.lower().endswith("." + MASK_SUFFIX)}
    keys = {name.rpartition(".")[0] for name in images}
    members = []
    for name in names:
        key = name.rpartition(".")[0] if name in images else _image_beside(name, keys)
        if key is not None:
            members.append(Member(name=name, key=key, suffix=name[len(key) + 1 :], size=sizes[name]))
    return sorted(members, key=lambda member: member.key)


def _image_beside(name: str, keys: set[str]) -> str | None:
    """The key of the image that a caption, a description or a mask lies beside: the longest that fits."""
    stem, _, extension = name.rpartition(".")
    if extension.lower() in ("txt", "json"):
        return stem if stem in keys else None
    folder = len(name) - len(name.rpartition("/")[2])
    while len(stem) > folder:
        if name.lower().endswith("." + MASK_SUFFIX) and stem in keys:
            return stem
        stem = stem[:folder] + stem[folder:].rpartition(".")[0]
    return None


def is_hidden(name: str) -> bool:
    """Whether the member is nobody's sample: dot files, AppleDouble halves (``._x``), archive metadata."""
    hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
    return hidden or bool(_ABOUT_THE_ARCHIVE.match(name))


def is_image(suffix: str) -> bool:
    return suffix.lower() in IMAGE_SUFFIXES


def count_ignored(members: Iterable[Member]) -> dict[str, int]:
    """How many members of which suffix are neither image nor caption, description or mask: pickles, arrays, classes."""
    suffixes = (member.suffix.lower() for member in members)
    others = Counter(s for s in suffixes if not (is_image(s) or s in ("txt", "json") or mask_concept(s) is not None))
    # There may be as many as members, and of any length.
    return {printable(suffix)[:_LONGEST_KIND]: count for suffix, count in others.most_common(_KINDS_SHOWN)}


def mask_concept(suffix: str) -> str | None:
    """``mask.png`` -> ``""``, ``car.mask.png`` -> ``"car"``, anything else -> None."""
    if suffix.lower() == MASK_SUFFIX:
        return ""
    return suffix[: -len(MASK_SUFFIX) - 1] if suffix.lower().endswith("." + MASK_SUFFIX) else None


def unsafe_name(name: str) -> str | None:
    """Why a name must not be used as the name of anything, or None if it may."""
    if not name:
        return "it is empty"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "it has control characters"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "it is not valid UTF-8"
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "it is an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "it leaves the archive through '..'"
    return None


def printable(name: str) -> str:
    """The name fit for logs and Parquet: what is not printable becomes an escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def group_members(shard: str, members: Iterable[Member]) -> tuple[list[Group | Defect], str | None]:
    """Groups members by key, whatever their order.

    Returns:
        the items in the order of each key's first member, and the first key whose members came apart (were
        separated by members of another key), or None. A repeated member is a duplicate, not a key come apart.
    """
    by_key: dict[str, list[Member]] = {}
    seen: set[tuple[str, str]] = set()
    previous, apart = None, None
    for member in members:
        by_key.setdefault(member.key, []).append(member)
        identity = (member.key, member.suffix.lower())
        if identity in seen:
            continue
        seen.add(identity)
        if apart is None and previous != member.key and by_key[member.key][0] is not member:
            apart = member.key
        previous = member.key
    items = [item for key, together in by_key.items() for item in _make_items(shard, key, together)]
    return items, apart


def _make_items(shard: str, key: str, members: list[Member]) -> list[Group | Defect]:
    names = [printable(member.name) for member in members]
    refused = next(filter(None, (unsafe_name(member.name) for member in members)), None)
    if refused:
        message = f"The member name {names[0]!r} was refused: {refused}."
        return [_defect(shard, printable(key) or "?", "unsafe_key", message)]
    images = [member for member in members if is_image(member.suffix)]
    if not images:
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        message = f"No .jpg, .jpeg, .png or .webp for this key, only {', '.join(names[:_NAMES_SHOWN])}{more}."
        return [_defect(shard, printable(key), "no_image", message)]

    # First come, first kept: later members of the same name are never read.
    first = {member.suffix.lower(): member for member in reversed(members)}
    masks = {
        concept: member
        for member in sorted(first.values(), key=lambda member: member.name)
        if (concept := mask_concept(member.suffix)) is not None
    }
    group = Group(key=key, image=images[0], caption=first.get("txt"), metadata=first.get("json"), masks=masks)
    kept = printable(images[0].name)
    return [group] + [
        _defect(
            shard,
            key,
            "duplicate_key",
            f"{printable(image.name)!r} is one more image of this key; the first, {kept!r}, is used.",
        )
        for image in images[1:]
    ]


def _defect(shard: str, key: str, reason: str, message: str) -> Defect:
    return Defect(shard=shard, key=key, stage="read", reason=reason, message=message)
