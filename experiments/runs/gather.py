"""Everything that is finished under a folder, for one page."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reporting.gathered import Section, is_gathered, write_gathered
from experiments.reporting.wording import seed_count
from experiments.runs.analysis import ANALYSES
from experiments.runs.views import TRAIN_FILES
from experiments.stages.record import complete, read_versioned
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import read_json
from prmkd_jax.common.texts import read_text

TITLES = {
    "table2": "Statistics of the data sets",
    "cold_start": "Who gains",
    "efficiency": "Costs",
}
WANTED: Mapping[str, str] = {
    "train": "train --flagfile=scientific-64.cfg",
    "table2": "study table2",
    "table3": "study table3 --flagfile=table3.cfg",
    "ablation": "study ablation --flagfile=ablation.cfg",
    "students": "study students --flagfile=students.cfg",
    "sources": "study sources --flagfile=sources.cfg",
    "rivals": "study rivals --flagfile=rivals.cfg",
    "sensitivity": "study sensitivity --flagfile=sensitivity.cfg",
    "curriculum": "study curriculum --flagfile=curriculum.cfg",
    "temporal": "study temporal --flagfile=temporal.cfg",
    "cold_start": "study cold_start --flagfile=scientific-64.cfg",
    "efficiency": "study efficiency --flagfile=scientific-64.cfg",
}
"""Study → the command that makes it; what isn't there is named on the page."""


def gather(folder: Path, page: Path, title: str) -> list[Section]:
    """Writes the page of all studies in a folder and in the folders in it.

    Args:
        folder: the folder to be searched.
        page: the HTML file.
        title: the page's heading.

    Returns:
        What is on it, in the order of `WANTED`.

    Raises:
        UserError: there is nothing, a file is damaged, or what is in the page's place is no such
            page, or a run's own.
    """
    _require_page(page)
    order = list(WANTED)
    found: list[tuple[int, Section]] = []
    missing: dict[str, str] = {}
    there: set[str] = set()
    for name, manifest in _manifests(folder):
        place = manifest.parent / f"{'results' if name == 'train' else name}.json"
        own, said = name.partition("-")[0], _read_manifest(manifest)
        table = "results.md" if name == "train" else f"{name}.md"
        if not {place.name, table} <= set(said.get("files", ())):
            continue  # another command's, such as pretrain's
        if not said.get("finished") or not place.is_file():
            at = manifest.parent.relative_to(folder)
            missing[f"{name} in {at}"] = "stopped; the same command goes on"
            continue
        rank = order.index(own) if own in order else len(order)
        there.add(own)
        found.append((rank, _section(folder, place, name, f"s{len(found)}")))
    missing |= {
        name: f"not there; prmkd {command} makes it"
        for name, command in WANTED.items()
        if name not in there
    }
    if not found:
        raise UserError(f"--output_dir: found nothing finished in {folder}, expected some study")
    sections = [section for _, section in sorted(found, key=lambda pair: pair[0])]
    write_gathered(page, title, sections, missing)
    return sections


def _require_page(page: Path) -> None:
    """Refuses to replace a file that is none of these pages, or to take the name of a run's own.

    Raises:
        UserError: naming it.
    """
    if os.path.lexists(page) and not is_gathered(page):
        raise UserError(
            f"--page: found {page}, which is no page made by --page, expected one or nothing"
        )
    for manifest in sorted(page.parent.glob("*run.json")):
        listed: Sequence[str] = ()
        # Another program's file of that name lists nothing of ours.
        with contextlib.suppress(UserError):
            listed = _read_manifest(manifest).get("files", ())
        if page.name in listed:
            raise UserError(
                f"--page: found {page}, a name that {manifest} lists as its run's own, expected "
                "another one"
            )


def _manifests(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name of a study, and its manifest, folder by folder."""
    for path in sorted(folder.rglob("*run.json")):
        if path.name == TRAIN_FILES.manifest:
            yield "train", path
        elif path.name.endswith("_run.json"):
            yield path.name.removesuffix("_run.json"), path


def _read_manifest(path: Path) -> dict[str, Any]:
    """What a manifest says; `files` are names.

    Raises:
        UserError: it is damaged, or no manifest.
    """
    wanted = "the list of a run's files (move it, or give the command that wrote it again)"
    try:
        said = read_json(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path}: damaged ({why}), expected {wanted}") from error
    if isinstance(said, dict):
        files = said.get("files", [])
        if isinstance(files, list) and all(isinstance(file, str) for file in files):
            return said
    raise UserError(f"{path}: files: found no list of names, expected {wanted}")


def _section(folder: Path, place: Path, name: str, anchor: str) -> Section:
    content = read_versioned(place)
    with complete(place):
        own = name.partition("-")[0]
        text = place.with_name("results.md" if name == "train" else f"{name}.md")
        if not text.is_file():
            raise UserError(f"{text}: missing, expected the study's table next to {place}")
        data = content.get("data", "")
        return Section(
            anchor=anchor,
            title=TITLES[own] if own in ANALYSES else content["study"]["title"],
            data=data if isinstance(data, str) else data["name"],
            source=str(place.relative_to(folder)),
            markdown=read_text(text, str(text), "the study's table"),
            figures={
                path.stem: read_text(path, str(path), "the study's figure")
                for path in _figures(place, name)
            },
            settings=dict(content.get("settings", {})),
            environment=dict(content.get("environment", {})),
            remarks=remarks(content),
        )


def _figures(place: Path, name: str) -> Sequence[Path]:
    if name == "train":
        return sorted((place.parent / TRAIN_FILES.figures).glob("*.svg"))
    listed = _read_manifest(place.with_name(f"{name}_run.json"))["files"]
    return [place.with_name(file) for file in sorted(listed) if file.endswith(".svg")]


def remarks(content: Mapping[str, Any]) -> list[str]:
    """What is missing in a study's results, in words."""
    found = []
    variants = content.get("variants", [])
    if variants and max(len(variant["seeds"]) for variant in variants) < 3:
        found.append(f"{seed_count(variants)}: too few to know the spread between seeds.")
    if variants and not content.get("untrained"):
        found.append("The untrained models were not measured.")
    without = [v["label"] for v in variants if v.get("lists") is None]
    if without:
        found.append(f"What the lists are like was not measured for {', '.join(without)}.")
    if content.get("missing"):
        found.append(f"Not at hand: {', '.join(content['missing'])}.")
    return found
