"""Write scenes of the miniature world as a WebDataset corpus."""

from __future__ import annotations

import filecmp
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from engine.miniature.scenes import Scene, draw_scene


def scene_to_members(scene: Scene) -> dict[str, bytes]:
    """Encode a scene as WebDataset members: extension -> bytes.

    `mask.png` is the mask of the scene's concept (absent from object-free scenes); every thing and named part also
    has its own `<name>.mask.png`. Masks are 8-bit PNGs of 0 and 255.
    """
    members = {
        "jpg": _encode(Image.fromarray(scene.image), "JPEG", quality=92),
        "json": json.dumps(scene.metadata, sort_keys=True).encode(),
        "txt": scene.caption.encode(),
    }
    concept = scene.metadata["concept"]
    for name, mask in scene.masks.items():
        png = _encode(Image.fromarray(mask.astype(np.uint8) * 255), "PNG", optimize=True)
        members[f"{name}.mask.png"] = png
        if name == concept:
            members["mask.png"] = png
    return dict(sorted(members.items()))


def write_corpus(
    folder: Path,
    *,
    count: int,
    seed: int,
    concept: str | None = None,
    width: int = 128,
    height: int = 128,
    shard_size: int = 100,
    objects: int | None = None,
) -> Iterator[Path]:
    """Write `count` scenes of `seed` as `folder/000000.tar` …, `shard_size` each, yielding each finished shard's path.

    Identical arguments give identical bytes. A shard appears under its name only when it is complete.

    Raises:
        ValueError: a count or shard size below 1, an unknown concept or number of objects, or a folder that already
            holds tars of other names or content.
    """
    if count < 1 or shard_size < 1:
        raise ValueError(f"count is {count} and shard size {shard_size}; both must be at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-count // shard_size)
    surplus = sorted(set(folder.glob("*.tar")) - {folder / f"{shard:06d}.tar" for shard in range(shards)})
    if surplus:
        raise ValueError(f"{folder} already holds other shards ({surplus[0].name}); choose an empty folder")
    for shard in range(shards):
        path = folder / f"{shard:06d}.tar"
        partial = folder / f".{path.name}.partial"
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(shard * shard_size, min(count, (shard + 1) * shard_size)):
                scene = draw_scene(seed, index, width=width, height=height, concept=concept, objects=objects)
                for extension, data in scene_to_members(scene).items():
                    member = tarfile.TarInfo(f"{index:08d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        if path.exists() and not filecmp.cmp(partial, path, shallow=False):
            partial.unlink()
            raise ValueError(f"{path} is there already, and holds something else; choose an empty folder")
        partial.rename(path)
        yield path


def _encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
