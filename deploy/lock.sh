#!/usr/bin/env bash
# Makes deploy/constraints.txt anew from pyproject.toml: keeps the pins that still fit, resolves the rest for every
# Python >= 3.10. Needs uv (https://docs.astral.sh/uv). `deploy/lock.sh --upgrade` moves all pins to the newest versions,
# `deploy/lock.sh --upgrade-package ray` moves one.
set -euo pipefail
cd "$(dirname "$0")/.."

pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
[ ! -f deploy/constraints.txt ] || cp deploy/constraints.txt "$pins"
uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
    --no-annotate --no-header --quiet --output-file "$pins" "$@" >/dev/null

{
    echo "# Exact versions of everything, made by deploy/lock.sh. Used as \`pip install -c deploy/constraints.txt\`."
    echo "# torch has no local version here, so that one pin fits its CPU and its CUDA builds; what torch itself pins"
    echo "# exactly (nvidia-*, cuda-*, triton) is left out."
    # A constraint installs nothing: a marker only matters where it chooses between versions, by that of Python.
    grep -vE "^(nvidia|cuda|triton)" "$pins" | awk -F' ; ' '
        { name = $1; sub(/==.*/, "", name); pin[NR] = $1; marker[NR] = $2; of[NR] = name; versions[name]++ }
        END {
            for (i = 1; i <= NR; i++) {
                if (versions[of[i]] == 1) { print pin[i]; continue }
                chosen = ""
                parts = split(marker[i], part, / (and|or) /)
                for (k = 1; k <= parts; k++)
                    if (part[k] ~ /python/) { gsub(/[()]/, "", part[k]); chosen = chosen (chosen ? " and " : "") part[k] }
                print pin[i] " ; " chosen
            }
        }'
} >"$pins.new"
mv "$pins.new" deploy/constraints.txt
