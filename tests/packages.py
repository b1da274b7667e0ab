"""Users' packages with entry points, laid out as pip would."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def install(folder: Path, group: str, code: str, version: str = "1.0", **entries: str) -> None:
    """Makes `my_package.own` with this code; the folder goes on the path.

    Args:
        folder: stands for site-packages.
        group: of the entry points.
        code: of the module.
        version: of the package.
        entries: name → module:class.
    """
    install_groups(folder, code, {group: entries}, version)


def install_groups(
    folder: Path, code: str, groups: Mapping[str, Mapping[str, str]], version: str = "1.0"
) -> None:
    """As `install`, with entry points of several groups: group → name → module:class."""
    package, facts = folder / "my_package", folder / f"my_package-{version}.dist-info"
    package.mkdir(exist_ok=True)
    facts.mkdir()
    (package / "__init__.py").write_text("")
    (package / "own.py").write_text(code)
    described = ["Metadata-Version: 2.1", "Name: my-package", f"Version: {version}"]
    (facts / "METADATA").write_text("\n".join(described))
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines))


def run_beside(folder: Path, code: str, *arguments: str) -> Any:
    """Runs code in a new interpreter that sees the folder's package; what its last line says.

    Args:
        folder: as in `install`.
        code: prints JSON last.
        arguments: the code's, after the folder.
    """
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *arguments],
        capture_output=True, text=True, timeout=120, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
