"""The page itself: files of this folder put into one, and the data beside it as a script that they read."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from engine.report.pictures import GAP, layer_size

SCRIPTS = ("store.js", "charts.js", "summary.js", "gallery.js", "review.js", "main.js")
DATA = "data.js"


def render_page(title: str) -> bytes:
    """`index.html`, with style and scripts in it. Whatever else a corpus says is in the data."""
    style, script = _read("report.css"), "\n".join(map(_read, SCRIPTS))
    # Only these very scripts may run, and nothing may be asked for over the network.
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src 'sha256-{_hash(script)}' 'self' file:",
            f"style-src 'sha256-{_hash(style)}'",
            "img-src 'self' file: data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {"title": html.escape(title), "policy": policy, "style": style, "script": script}
    page = _read("index.html")
    head, *rest = page.split("{{")
    pieces = [head]
    for piece in rest:
        name, _, after = piece.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces).encode()


def render_data(data: Mapping[str, Any]) -> bytes:
    """`data.js`: JSON that no reader takes for anything else, whatever keys and messages hold."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return f"window.REPORT = {text.replace('<', chr(92) + 'u003c')};\n".encode()


def pack_rows(
    rows: Sequence[Mapping[str, Any]], pictures: Mapping[tuple[str, str], tuple[str, int]], side: int
) -> dict[str, Any]:
    """Rows as short JSON lists: shards and flags by number, measures with four digits.

    Args:
        pictures: path and number of layers, by shard and key; a row without has no picture.
        side: that the pictures were drawn with.
    """
    shards = sorted({row["shard"] for row in rows})
    flags = sorted({flag for row in rows for flag in row["flags"]})
    shard_of, flag_of = ({name: place for place, name in enumerate(names)} for names in (shards, flags))
    packed = []
    for row in rows:
        width, _ = layer_size(row["width"], row["height"], side)
        path, layers = pictures.get((row["shard"], row["key"]), ("", 0))
        measures = [row[name] for name in ("quality", "area", "separation", "refined_separation", "presence")]
        packed.append(
            [
                shard_of[row["shard"]],
                row["key"],
                row["width"],
                row["height"],
                *(None if value is None else round(value, 4) for value in measures),
                [flag_of[flag] for flag in row["flags"]],
                path,
                layers,
                round((width + GAP) / width, 6),
            ]
        )
    return {"shards": shards, "flags": flags, "rows": packed}


def _read(name: str) -> str:
    return resources.files("engine.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
