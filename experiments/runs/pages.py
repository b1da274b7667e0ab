"""The docs' own records: small copies of results, and the parts of pages that are made of them."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from experiments.reporting.choice import choice_table
from experiments.reporting.curves import SIGNS
from experiments.reporting.docs_figures import FIGURES, OWN, on_white
from experiments.reporting.docs_tables import VIEWS
from experiments.reporting.pages import fill
from experiments.reporting.plotting import Sketch
from experiments.reporting.results import Results, Timing
from experiments.reporting.tables import markdown
from experiments.runs import cold_start, efficiency, table2
from experiments.runs.analysis import ANALYSES
from experiments.runs.views import CURVES
from experiments.stages.record import complete, read_results, read_versioned
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_text
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.common.texts import read_text

PLACES = ("output_dir", "cache_dir", "data_dir", "precomputed_folder")
TIMING = "timing"
"""Key under which a small copy holds the times."""
OF_LISTS = "lists"
"""View of what lists are like, of a study's variants or by segments."""
ALL, CHOICE = "*.json", "choice"
"""Name that stands for all records, and what can be shown of them together."""
DRAWN = "figures"
"""Folder of a page's figures, beside it."""


def small_copy(results: Path, timing: Path, kept: Path) -> None:
    """Keeps a study's results for the docs, without the epochs, together with its times.

    Args:
        results: the path of the study's JSON file.
        timing: the path of the study's times.
        kept: the copy.

    Raises:
        UserError: the results are damaged, or what is there is no such copy.
    """
    content = read_versioned(results)
    _require_copy(kept)
    with complete(results):
        # Where files lay on one machine concerns no reader.
        for flag in PLACES:
            content["settings"].pop(flag, None)
        for variant in content.get("variants", []):
            for seed in variant["seeds"]:
                del seed["history"]
    write_sealed_json(kept, {**content, TIMING: read_results(timing)})


def _require_copy(kept: Path) -> None:
    """Refuses to replace a file that is none of these copies, such as the results themselves."""
    if not kept.exists():
        return
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = read_sealed_json(kept)
    if TIMING not in found:
        raise UserError(
            f"--keep: found {kept}, which is no copy made by --keep, expected one or nothing"
        )


def fill_pages(pages: Sequence[Path], records: Path) -> list[bool]:
    """Makes the blocks of pages again, and the figures that they show.

    A mistake in one of them leaves all as they were.

    Args:
        pages: Markdown files.
        records: folder of the small copies and of what studies that train nothing left.

    Returns:
        Whether each page's text was another before, or a figure of it was missing.

    Raises:
        UserError: a page has no block or one that isn't as `fill` expects it, or its record is
            missing or damaged.
    """
    before = [read_text(page, f"--fill: {page}", "a Markdown page") for page in pages]
    filled = [_filled(page, text, records) for page, text in zip(pages, before, strict=True)]
    changed = [
        new.text != old or not all(path.exists() for path in new.figures)
        for new, old in zip(filled, before, strict=True)
    ]
    # Figures first: a page never shows one that isn't there.
    for path, svg in itertools.chain.from_iterable(new.figures.items() for new in filled):
        path.parent.mkdir(exist_ok=True)
        write_text(path, svg)
    for page, new in itertools.compress(zip(pages, filled, strict=True), changed):
        write_text(page, new.text)
    return changed


class _Filled(NamedTuple):
    """A page made again.

    Attributes:
        text: Markdown.
        figures: place of each SVG file that the page shows → its content.
    """

    text: str
    figures: dict[Path, str]


def _filled(page: Path, text: str, records: Path) -> _Filled:
    figures: dict[Path, str] = {}

    def made(name: str, view: str) -> str:
        shown = _shown(records, name, view)
        if isinstance(shown, str):
            return shown
        file = f"{Path(name).stem}-{view}.svg"
        figures[page.parent / DRAWN / file] = on_white(shown.svg())
        return f"![{shown.alt}]({DRAWN}/{file})"

    return _Filled(fill(text, made, str(page)), figures)


def _shown(records: Path, name: str, view: str) -> str | Sketch:
    """A study's Markdown or figure, of its small copy or of what one that trains nothing has left.

    Raises:
        UserError: the record is missing or damaged, or there is no such view.
    """
    if name == ALL:
        return _shown_of_all(records, view)
    path = records / name
    content: dict[str, Any] = read_versioned(path)
    with complete(path):
        study, rows = content["study"]["name"], content.get("rows", [])
        if view and view not in (views := _views(study)):
            raise UserError(f"{name}: found view {view!r}, expected one of {', '.join(views)}")
        drawn = view == OWN
        if study == "table2":
            return table2.sketch(rows) if drawn else table2.markdown(rows, content["missing"])
        if study == "cold_start":
            if view == OF_LISTS:
                return cold_start.list_markdown(content.get("lists", [])).strip()
            return cold_start.sketch(rows) if drawn else cold_start.markdown(content["data"], rows)
        if study == "efficiency":
            if drawn:
                return efficiency.sketch(rows)
            return efficiency.markdown(content["data"], rows, content["environment"])
        results, timing = cast(Results, content), cast(Timing, content[TIMING])
        if view in FIGURES:
            return FIGURES[view](results)
        return VIEWS[view](results, timing) if view else markdown(results, timing)


def _shown_of_all(records: Path, view: str) -> str:
    """What all studies with variants show together.

    Raises:
        UserError: a record is damaged, or there is no such view.
    """
    if view != CHOICE:
        raise UserError(f"{ALL}: found view {view!r}, expected {CHOICE}")
    studies: dict[str, Results] = {}
    for path in sorted(records.glob(ALL)):
        content = read_versioned(path)
        with complete(path):
            if content["study"]["name"] not in ANALYSES:
                studies[path.stem] = cast(Results, content)
    return choice_table(studies)


def _views(study: str) -> list[str]:
    """What can be shown of a study beside its Markdown."""
    if study in ANALYSES:
        return [OWN, OF_LISTS] if study == "cold_start" else [OWN]
    missing = {*SIGNS} - {*CURVES.get(study, ())}
    return [*VIEWS, *(view for view in FIGURES if view not in missing)]
