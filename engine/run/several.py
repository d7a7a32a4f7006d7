"""The concepts of a run, where there are several."""

from __future__ import annotations

from collections.abc import Sequence

from engine import storage
from engine.run.directory import RunError, read_manifest
from engine.run.names import to_folder


def read_concepts(concepts: Sequence[str], file: str | None) -> tuple[str, ...]:
    """The concepts that the options name, each once.

    Args:
        file: URL of a text file with a word or phrase in every line; what follows a # is left out.

    Raises:
        ValueError: none, one twice, two whose folders would be one, or a file that cannot be read.
    """
    named = list(concepts)
    if file is not None:
        try:
            text = storage.read_bytes(storage.absolute(file)).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise ValueError(f"--concept-file {storage.redact(file)} cannot be read: {error}") from error
        named += [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]
    if not named:
        raise ValueError("no concept is named; give --concept WORD, once or more often, or --concept-file FILE")
    folders: set[str] = set()
    for concept in named:
        if to_folder(concept) in folders:
            raise RunError(f"--concept {concept!r} is there already, or another one like it; name each once")
        folders.add(to_folder(concept))
    return tuple(named)


def refuse_joined(run_url: str) -> None:
    """Raises RunError for a run of several concepts of versions that labelled each in a run of its own."""
    url = storage.absolute(run_url)
    if storage.exists(storage.join(url, "run.json")) and "join_version" in read_manifest(url).fingerprint:
        raise RunError(
            f"{storage.redact(url)} is of an earlier version, which labelled each of its concepts apart: its labels "
            "can be read as ever, but to label more give another --run"
        )
