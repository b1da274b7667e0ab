"""The docs' own records: small copies of results, and the parts of pages that are made of them."""

import contextlib
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from experiments.reporting.docs_tables import VIEWS
from experiments.reporting.pages import fill
from experiments.reporting.results import Results, Timing
from experiments.reporting.tables import markdown
from experiments.runs import cold_start, efficiency, table2
from experiments.stages.record import complete, read_results, read_versioned
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_text
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.common.texts import read_text

PLACES = ("output_dir", "cache_dir", "data_dir")
TIMING = "timing"
"""Key under which a small copy holds the times."""


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
    """Makes the blocks of pages again; a mistake in one of them leaves all as they were.

    Args:
        pages: Markdown files.
        records: folder of the small copies and of what studies that train nothing left.

    Returns:
        Whether each page was another before.

    Raises:
        UserError: a page has no block or one that isn't as `fill` expects it, or its record is
            missing or damaged.
    """
    before = [read_text(page, f"--fill: {page}", "a Markdown page") for page in pages]
    made = functools.partial(_made, records)
    after = [fill(text, made, str(page)) for page, text in zip(pages, before, strict=True)]
    changed = [new != old for new, old in zip(after, before, strict=True)]
    for page, text in itertools.compress(zip(pages, after, strict=True), changed):
        write_text(page, text)
    return changed


def _made(records: Path, name: str, view: str) -> str:
    """A study's Markdown, of its small copy or of what one that trains nothing has left.

    Raises:
        UserError: the record is missing or damaged, or there is no such view.
    """
    path = records / name
    if view and view not in VIEWS:
        raise UserError(f"{name}: found view {view!r}, expected one of {', '.join(VIEWS)}")
    content: dict[str, Any] = read_versioned(path)
    with complete(path):
        study = content["study"]["name"]
        if study == "table2":
            return table2.markdown(content["rows"], content["missing"])
        if study == "cold_start":
            return cold_start.markdown(content["data"], content["rows"])
        if study == "efficiency":
            return efficiency.markdown(content["data"], content["rows"], content["environment"])
        if view:
            return VIEWS[view](cast(Results, content), cast(Timing, content[TIMING]))
        return markdown(cast(Results, content), cast(Timing, content[TIMING]))
