"""Writes what is installed in .venv: versions of all packages, and the SHA-256 of some.

    .venv/bin/python .ci/lock.py

`constraints.txt` holds every package that pip finds for `requirements.txt`, so that none floats;
`make book` keeps to it. `requirements.lock` holds the SHA-256 of the wheels of those that read
files of strangers, for this platform and Python alone: `make book LOCKED=1` takes no others. Torch
is in neither: its builds for a CPU and for cards have one version and other files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("torch==", "kvlib==", "nvidia-", "triton==")
READERS = (  # of models, tables, archives and settings that come from elsewhere
    *("tokenizers", "huggingface_hub", "safetensors", "transformers", "gguf", "numpy", "pandas"),
    *("pyarrow", "PyYAML", "regex", "pyppmd"),
)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def installed() -> list[str]:
    """All packages as `name==version`."""
    done = subprocess.run(
        [*PIP, "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
    )
    return [line for line in done.stdout.splitlines() if not line.startswith(ELSEWHERE)]


def hashes(packages: list[str]) -> dict[str, str]:
    """The SHA-256 that the index names for the wheel of each; nothing is downloaded for that."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.json"
        how = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*PIP, *how, "--quiet", "--report", str(report), *packages], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        f"{one['metadata']['name']}=={one['metadata']['version']}": one["download_info"][
            "archive_info"
        ]["hashes"]["sha256"]
        for one in found
    }


def main() -> None:
    """Both files."""
    packages = installed()
    says = "# Written by .ci/lock.py: "
    (ROOT / "constraints.txt").write_text(
        "\n".join([f"{says}the version of every package.", *packages, ""])
    )
    readers = [one for one in packages if one.partition("==")[0] in READERS]
    locked = [f"{name} --hash=sha256:{found}" for name, found in hashes(readers).items()]
    where = f"wheels for {sys.platform}, Python {sys.version[:4]}; make book LOCKED=1"
    (ROOT / "requirements.lock").write_text("\n".join([says + where, *locked, ""]))


if __name__ == "__main__":
    main()
