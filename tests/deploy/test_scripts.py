"""Shell scripts and Dockerfile against their linters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "deploy").rglob("*.sh")), *sorted((ROOT / "deploy").rglob("*.sbatch"))]


def lint(tool: str, path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which(tool, path=Path(sys.executable).parent) or shutil.which(tool)
    if program is None:
        pytest.skip(f"{tool} is not installed (there is none for this machine): {path.name} was NOT checked")
    return subprocess.run([program, str(path)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = lint("shellcheck", path)
    assert done.returncode == 0, done.stdout


def test_shellcheck_is_really_asked(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm $1\n")
    assert "SC2086" in lint("shellcheck", tmp_path / "bad.sh").stdout


def test_hadolint_finds_nothing() -> None:
    done = lint("hadolint", ROOT / "deploy" / "Dockerfile")
    assert done.returncode == 0, done.stdout
