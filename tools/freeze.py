"""Write constraints.txt: the exact versions in this environment, which `tools/setup.sh` installs elsewhere.

Run `.venv/bin/python tools/freeze.py` after the tests have passed with newer versions. Left out is what PyTorch pins
itself and what differs between platforms (the CUDA libraries, Triton), so that the file serves every Python that
pyproject.toml admits.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

LEFT_OUT = re.compile(r"(nvidia|cuda)-.*|triton|pip|wheel|raycondense")
HEADER = """\
# The exact versions that raycondense was tested with. Written by tools/freeze.py; not edited by hand.
"""


def constraint_lines() -> list[str]:
    """Lines ``name==version`` of everything installed here, ordered by name."""
    versions = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if not LEFT_OUT.fullmatch(name):
            versions[name] = distribution.version.partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def main() -> None:
    target = Path(__file__).resolve().parent.parent / "constraints.txt"
    lines = constraint_lines()
    target.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{target}: {len(lines)} packages")


if __name__ == "__main__":
    main()
