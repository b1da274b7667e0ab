"""The body of `prepare`: what people have becomes a data set in the canonical layout."""

import shlex
from pathlib import Path

import pyarrow.parquet as pq

from experiments.cli.command import Call
from experiments.cli.console import Reporter, Stage
from experiments.stages.images import encode_images
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import ITEMS
from prmkd_jax.data.prepared import note_digests
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.download import Progress
from prmkd_jax.data.sources.files import expanded
from prmkd_jax.data.sources.folder import writes
from prmkd_jax.data.sources.images import REPORT, fetch_images
from prmkd_jax.data.sources.prepare import prepare
from teachers_torch.config import ImageConfig

# What teachers read of items: `teachers_torch.items.text.SENTENCE_FIELDS`, which would load torch,
# and images.
SENTENCE, IMAGE = ("title", "categories", "brand"), "image_path"


def run(call: Call) -> None:
    """Prepares the data set and prints its data sheet, warnings last; then sees to images.

    A data set that is there, made of the same files with the same flags, stays as it is, so the
    same command goes on with images that are missing.
    """
    config, reporter = call.config(PrepareConfig), call.reporter
    config.require()
    unread = config.unread()
    if not config.encode_images:
        unread["image_encoder"] = "no --encode_images"
    for name in sorted(call.explicit & set(unread)):
        reporter.warn(f"--{name} has no effect: {unread[name]}")
    folder = expanded(config.data_dir) / config.name
    _rows(config, reporter)
    if config.download_images or config.encode_images:
        with writes(folder):
            if config.download_images:
                _fetch(folder, config, reporter)
            if config.encode_images:
                encode_images(folder, call.config(ImageConfig), reporter, strict=config.strict)
                note_digests(folder)
    flags = [f"--dataset={config.name}", *_settings(folder)]
    if config.data_dir != PrepareConfig.__dataclass_fields__["data_dir"].default:
        flags.append(f"--data_dir={config.data_dir}")
    reporter.say(f"next: python -m experiments train {shlex.join(flags)}")


def _settings(folder: Path) -> list[str]:
    """The settings to begin with: own.cfg where there are texts, and teachers of what is there."""
    items = folder / ITEMS
    names = [name for name in pq.read_schema(items).names if name in (*SENTENCE, IMAGE)]
    table = pq.read_table(items, columns=names)
    known = {name for name in names if table[name].null_count < table.num_rows}
    if not known & set(SENTENCE):
        return ["--teachers=neighbours"]
    of_images = ["--teachers=unisrec-text,unisrec,unim2rec"] if IMAGE in known else []
    return ["--flagfile=own.cfg", *of_images]


def _rows(config: PrepareConfig, reporter: Reporter) -> None:
    if config.download:
        with reporter.stage("fetching", "MB") as stage:
            report = prepare(config, in_megabytes(stage), reporter.say)
    else:
        report = prepare(config, say=reporter.say)
    for line in report.lines():
        reporter.say(line)
    for warning in report.sheet.warnings:
        reporter.warn(str(warning))


def _fetch(folder: Path, config: PrepareConfig, reporter: Reporter) -> None:
    with reporter.stage("fetching", "images") as stage:
        found = fetch_images(folder, config.image_hosts, config.image_connections, stage.update)
    reporter.say(f"images: {found.fetched:,} fetched, {found.there:,} were there")
    if found.broken:
        address, fault = min(found.broken.items())
        warning = (
            f"images: {len(found.broken):,} could not be fetched (such as {address}: {fault}); "
            f"all are named in {folder / REPORT}"
        )
        if config.strict:
            raise UserError(f"--strict: {warning}")
        reporter.warn(warning)


def in_megabytes(stage: Stage) -> Progress:
    """Shows bytes as megabytes, and only when there is one more."""
    shown = (-1, "")

    def progress(done: int, total: int | None, title: str) -> None:
        nonlocal shown
        if (done >> 20, title) != shown:
            shown = (done >> 20, title)
            stage.update(done >> 20, (total or done) >> 20, title)

    return progress
