"""Settings that a command gives and that have no use there: it is told which."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Container
from typing import Any

from engine.run.options import Distillation

logger = logging.getLogger(__name__)


def tell_ignored(options: Any, why: str, *, used: Container[str] = (), prefix: str = "") -> None:
    """Warns of all settings of a group that are not the defaults, as nothing takes them.

    Args:
        options: dataclass whose fields are flags, all with defaults.
        why: the option for which it is so.
        used: fields that have a use all the same; prefix: of the flags.
    """
    defaults = type(options)()
    names = [f.name for f in dataclasses.fields(options) if getattr(options, f.name) != getattr(defaults, f.name)]
    flags = [f"--{prefix}{name.replace('_', '-')}" for name in names if name not in used]
    if flags:
        logger.warning("%s %s nothing with %s", ", ".join(flags), "do" if len(flags) > 1 else "does", why)


def tell_ignored_training(options: Distillation, adapter: str | None = None) -> None:
    """Warns of settings of a fine-tuning that is not done, or of another method's."""
    if adapter is not None:
        tell_ignored(options, "--adapter")
    elif options.method == "none":
        tell_ignored(options, "--method none", used=("method",))
    elif options.method == "full":
        tell_ignored(Distillation(rank=options.rank), "--method full")
