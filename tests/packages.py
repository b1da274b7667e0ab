"""Users' packages with entry points, laid out as pip would."""

from pathlib import Path


def install(folder: Path, group: str, code: str, version: str = "1.0", **entries: str) -> None:
    """Makes `my_package.own` with this code; the folder goes on the path.

    Args:
        folder: stands for site-packages.
        group: of the entry points.
        code: of the module.
        version: of the package.
        entries: name → module:class.
    """
    package, facts = folder / "my_package", folder / f"my_package-{version}.dist-info"
    package.mkdir(exist_ok=True)
    facts.mkdir()
    (package / "__init__.py").write_text("")
    (package / "own.py").write_text(code)
    described = ["Metadata-Version: 2.1", "Name: my-package", f"Version: {version}"]
    (facts / "METADATA").write_text("\n".join(described))
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (facts / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
