"""From a foreign format to a canonical data set, in one call."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json
from prmkd_jax.common.places import require_apart
from prmkd_jax.common.reading import file_states, read_json, require_states
from prmkd_jax.data.dataset import TEXT_FIELDS
from prmkd_jax.data.prepared import PREPARED, file_digests
from prmkd_jax.data.sheet import Described, Line, Sheet, data_sheet
from prmkd_jax.data.sources import canonical_files, filters
from prmkd_jax.data.sources.amazon import SITES, open_amazon, wanted_files
from prmkd_jax.data.sources.clean import ITEM_COLUMNS
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.download import Progress, fetch
from prmkd_jax.data.sources.files import MissingSource, expanded
from prmkd_jax.data.sources.finished import describe_files, require_same
from prmkd_jax.data.sources.folder import (
    IMAGES,
    is_data_set,
    new_folder,
    recover,
    refuse_existing,
    refuse_lost_features,
    writes,
)
from prmkd_jax.data.sources.lcrec import open_lcrec
from prmkd_jax.data.sources.log import Incomplete, collect
from prmkd_jax.data.sources.place import short
from prmkd_jax.data.sources.recbole_atomic import open_recbole
from prmkd_jax.data.sources.recformer import open_recformer
from prmkd_jax.data.sources.source import Source
from prmkd_jax.data.sources.tables import open_tables
from prmkd_jax.data.sources.times import Clock
from prmkd_jax.data.splits import Split, leave_one_out
from prmkd_jax.data.splits import given as given_split


@dataclasses.dataclass(frozen=True)
class Report:
    """What `prepare` did.

    Attributes:
        folder: the data set.
        notes: how the files were read.
        steps: each filter's work, in their order.
        sheet: the data sheet of the result.
        found: whether the data set was there already, and nothing was done.
    """

    folder: Path
    notes: tuple[str, ...]
    steps: tuple[filters.Step, ...]
    sheet: Sheet
    found: bool = False

    def lines(self) -> list[str]:
        """The report for people, without the warnings."""
        removed = [
            f"{step.name}: removed {step.removed:,}, left {step.left:,} interactions of "
            f"{step.users:,} users and {step.items:,} items"
            for step in self.steps
        ]
        figures = [str(line) for line in self.sheet.lines if not line.warning]
        end = f"written to {self.folder}"
        if self.found:
            end = f"nothing to do: {self.folder} was made of these files with these flags"
        return [*self.notes, *removed, *figures, end]

    def as_dict(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {
            "notes": list(self.notes),
            "steps": [step._asdict() for step in self.steps],
            "sheet": self.sheet.as_list(),
        }


def prepare(
    config: PrepareConfig,
    progress: Progress = lambda done, total, title: None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Reads, filters and orders; writes `<data_dir>/<name>`, complete or not at all.

    A data set that is there, made of the same files with the same flags, is left as it is.

    Args:
        config: the flags of `prepare`.
        progress: receives the bytes of a download as they come.
        say: receives a line before each long stage.

    Raises:
        UserError: anything is wrong with the files or the flags, another call writes this data
            set, something would be lost that it doesn't replace, or, with `--strict`, a warning
            stands in the data sheet. Nothing is written then.
    """
    config.require()
    target = expanded(config.data_dir) / config.name
    recover(target)
    if not config.overwrite and is_data_set(target):
        return _found(target, config)
    refuse_existing(target, config.overwrite)
    refuse_lost_features(target, config.encode_images)
    with writes(target):
        return _made(target, config, progress, say)


def _made(
    target: Path, config: PrepareConfig, progress: Progress, say: Callable[[str], None]
) -> Report:
    """The work of `prepare`."""
    if config.source == "amazon" and config.download:
        download(config, progress, say)
    clock = Clock(config.time_unit)
    source = open_source(config, clock)
    states = file_states(source.files)
    ties = tie_rule(config, source)
    require_apart(source.files, target, f"--name={config.name}")
    if (target / IMAGES).is_dir() and not config.download_images:
        say(f"{target / IMAGES} stays; --download_images names its images in the new items")
    with new_folder(target, config.overwrite) as folder:
        has_catalogue = source.items is not None
        if source.items is not None:
            say("reading the catalogue")
            canonical_files.stage_items(folder, source.items)
        say("reading the interactions")
        files = ",".join(config.interactions) if config.source == "table" else config.raw_dir
        log, incomplete = collect(source.interactions, source.timed, files)
        require_states(states)
        titled = None
        if has_catalogue and config.need_title:
            titled = canonical_files.titled_items(folder, log.item_ids)
        say("filtering")
        log, steps = filters.apply(log, config, ties, titled)
        data = canonical_files.histories(log, ties, by_appearance=not ties.by_item)
        say("writing")
        given = _split_note(log.parts is not None, data.parts is not None)
        del log
        rows, twice, others = _catalogue(folder, config, data.item_ids, has_catalogue)
        sheet = _sheet(data, rows, others, config, _given(incomplete, twice, data))
        if config.strict:
            sheet.require_clean()
        canonical_files.write_items(folder, rows)
        canonical_files.write_interactions(folder, data)
        (folder / canonical_files.STAGED).unlink(missing_ok=True)
        notes = (*source.notes, *_order_notes(source, clock, ties), *given)
        report = Report(target, notes, tuple(steps), sheet)
        origin = {
            "flags": config.decisive,
            "sources": describe_files(source.files),
            "interactions": file_digest(folder / canonical_files.INTERACTIONS),
            "files": file_digests(folder),
        }
        # Or the record would say that it was made of the files as they are now.
        require_states(states)
        write_json(folder / PREPARED, {**report.as_dict(), **origin})
    return report


def _found(target: Path, config: PrepareConfig) -> Report:
    """The report of a data set that is there.

    Raises:
        UserError: it was made otherwise, or of other files, or those that are there now are
            wrong; or, with `--strict`, a warning stands in its sheet.
    """
    files, wrong = None, None
    try:
        files = open_source(config, Clock(config.time_unit)).files
    except MissingSource:
        pass  # raw files may be deleted once the data set is there
    except UserError as error:
        wrong = error  # that flags are others, or a known file has changed, is told first
    require_same(target, config, files)
    if wrong is not None:
        raise wrong
    report = _kept_report(target)
    if config.strict:
        report.sheet.require_clean()
    return report


def _kept_report(target: Path) -> Report:
    """The report of a data set that is there, as it was written.

    Raises:
        UserError: something in it is missing or of another kind.
    """
    path = target / PREPARED
    try:
        kept: Any = read_json(path)
        right = (
            _are(kept["sheet"], _LINE)
            and _are(kept["steps"], _STEP)
            and isinstance(kept["notes"], list)
            and all(isinstance(note, str) for note in kept["notes"])
        )
    except (OSError, ValueError, LookupError, TypeError):
        right = False
    if not right:
        raise UserError(
            f"{path}: damaged, expected what prepare has written (--overwrite makes the data set "
            "again)"
        )
    steps = tuple(filters.Step(**step) for step in kept["steps"])
    return Report(target, tuple(kept["notes"]), steps, Sheet.from_list(kept["sheet"]), found=True)


_LINE = {
    "name": str,
    "number": (int, float),
    "of": (int, type(None)),
    "example": str,
    "warning": str,
}
_STEP = {"name": str, **dict.fromkeys(("removed", "left", "users", "items"), int)}


def _are(value: object, fields: Mapping[str, type | tuple[type, ...]]) -> bool:
    """Whether it is a list of objects with these fields and no others."""
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and one.keys() == fields.keys()
        and all(isinstance(one[name], kind) for name, kind in fields.items())
        for one in value
    )


def open_source(config: PrepareConfig, clock: Clock) -> Source:
    """Opens the files that `--source` and the paths name.

    Raises:
        MissingSource: they are not there.
        UserError: they are of another form.
    """
    readers: Mapping[str, Callable[[], Source]] = {
        "table": lambda: open_tables(config, clock),
        "recbole": lambda: open_recbole(config, clock),
        "lcrec": lambda: open_lcrec(config),
        "recformer": lambda: open_recformer(config),
        "amazon": lambda: open_amazon(config, clock),
    }
    if config.source != "table" and not expanded(config.raw_dir).is_dir():
        raise MissingSource(f"--raw_dir: found no folder {config.raw_dir!r}, expected one")
    return readers[config.source]()


def download(
    config: PrepareConfig, progress: Progress, say: Callable[[str], None] = lambda text: None
) -> None:
    """Fetches a category's files that are not in `--raw_dir` yet.

    Raises:
        UserError: the server refuses, or the connection breaks too often.
    """
    site = config.base_url.rstrip("/") or SITES[config.generation]
    for folder, name in wanted_files(config):
        fetch(f"{site}/{folder}/{name}", expanded(config.raw_dir) / name, progress, say=say)


def tie_rule(config: PrepareConfig, source: Source) -> filters.Ties:
    """How equal times are ordered.

    Raises:
        UserError: the order of several files' rows is asked for.
    """
    if config.ties == "file" and not source.ordered:
        raise UserError("--ties=file: found several files, whose rows have no order, expected item")
    return filters.Ties(by_item=config.ties == "item" or not source.ordered)


def _order_notes(source: Source, clock: Clock, ties: filters.Ties) -> list[str]:
    rule = "by item id" if ties.by_item else "as in the file"
    return [clock.said(), f"equal times: {rule}"] if source.timed else []


def _split_note(given: bool, kept: bool) -> list[str]:
    if not given:
        return []
    return [
        "given split: kept in the column split"
        if kept
        else "given split: it is leave-one-out, so nothing of it is written"
    ]


def _catalogue(
    folder: Path, config: PrepareConfig, item_ids: pl.Series, has_catalogue: bool
) -> tuple[pl.DataFrame, int, set[str]]:
    """The rows of items.parquet; without a catalogue, the bare ids."""
    if not has_catalogue:
        rows = pl.DataFrame({"item_id": item_ids.sort()}, schema={"item_id": pl.String})
        missing = [pl.lit(None, kind).alias(name) for name, kind in ITEM_COLUMNS.items()]
        return rows.with_columns(missing[1:]), 0, set()
    rows, twice, others = canonical_files.final_items(folder, item_ids, config.keep_items == "all")
    if not rows["item_id"].is_in(item_ids.implode()).any():
        has = f"it has {short(min(others))}" if others else "it has no row"
        raise UserError(
            f"the catalogue: found no item of the interactions, such as {short(item_ids[0])}, in "
            f"it ({has}), expected the same ids in both"
        )
    return rows, twice, others


def _given(incomplete: Incomplete, twice: int, data: canonical_files.Histories) -> list[Line]:
    """Lines on rows that the files have and the result has not, and on ranks."""
    warning = (
        "a user, an item or a time is missing; they were left out" if incomplete.number else ""
    )
    repeated = "of an item's rows the fullest was kept" if twice else ""
    tied = "a rank stands for one interaction of a user" if data.tied else ""
    return [
        Line("incomplete rows", incomplete.number, None, incomplete.example, warning),
        Line("catalogue rows of an item that has another", twice, None, "", repeated),
        *(
            [Line("interactions at the same position as another", data.tied, None, "", tied)]
            * bool(data.tied)
        ),
    ]


def _sheet(
    data: canonical_files.Histories,
    rows: pl.DataFrame,
    others: set[str],
    config: PrepareConfig,
    given: list[Line],
) -> Sheet:
    aligned = pl.DataFrame({"item_id": data.item_ids}).join(
        rows.with_columns(pl.lit(True).alias("row")),
        on="item_id",
        how="left",
        maintain_order="left",
    )
    images = aligned["image_path"].is_not_null().to_numpy()
    split, unusable = _split(data)
    sheet = data_sheet(
        Described(
            interactions=data.interactions,
            user_ids=data.user_ids,
            item_ids=data.item_ids.to_list(),
            texts={field: aligned[field].to_list() for field in TEXT_FIELDS},
            split=split,
            has_image=images if images.any() else None,
            has_row=aligned["row"].fill_null(False).to_numpy().astype(np.bool_),
            other_rows=others,
            times=data.times,
        ),
        config.text_limit,
    )
    return Sheet((*given, *unusable, *sheet.lines))


def _split(data: canonical_files.Histories) -> tuple[Split, list[Line]]:
    """The split that training will take, and a warning where the given one can't be."""
    if data.parts is not None:
        interactions = dataclasses.replace(data.interactions, parts=data.parts)
        try:
            return given_split(interactions), []
        except UserError as error:
            return leave_one_out(data.interactions), [
                Line("given splits that --split=given can't take", 1, warning=str(error))
            ]
    return leave_one_out(data.interactions), []
