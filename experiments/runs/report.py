"""The body of `report`: table, page and figures of a finished study, made of its results again."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from experiments.cli.command import Call
from experiments.cli.options import ReportConfig
from experiments.reporting.results import Results, Timing
from experiments.runs.gather import gather
from experiments.runs.pages import fill_pages, small_copy
from experiments.runs.views import StudyFiles, find_studies, show, write_views
from experiments.stages.record import complete, read_results, read_versioned
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.places import require_place


def run(call: Call) -> None:
    """Writes and prints again what every finished study in `--output_dir` has found.

    With `--page` one page of all studies in the folder and below it instead; with `--keep` a small
    copy of the only one; with `--fill` the blocks of pages of the docs.

    Raises:
        UserError: there is none, a file is damaged, or `--keep` finds several.
    """
    config = call.config(ReportConfig)
    output = Path(config.output_dir)
    if config.page:
        require_place(Path(config.page).parent, "--page")
        sections = gather(output, Path(config.page), "What was measured")
        call.reporter.say(
            f"{len(sections)} {'study' if len(sections) == 1 else 'studies'} on {config.page}"
        )
        return
    if config.fill:
        changes = fill_pages([Path(page) for page in config.fill], output)
        for page, changed in zip(config.fill, changes, strict=True):
            call.reporter.say(f"{page}: {'made again' if changed else 'was up to date'}")
        return
    if config.keep:
        files = _the_only(find_studies(output), output)
        small_copy(output / files.results, output / files.timing, Path(config.keep))
        call.reporter.say(f"Kept in {config.keep}")
        return
    for files in find_studies(output):
        results = cast(Results, read_versioned(output / files.results))
        timing = output / files.timing
        # Without it the page has dashes for the times.
        seconds = cast(Timing, read_results(timing)) if timing.is_file() else Timing()
        with complete(output / files.results):
            write_views(output, files, results, seconds)
            show(output, files, results, seconds, call.reporter)


def _the_only(found: Sequence[StudyFiles], output: Path) -> StudyFiles:
    """The study that `--keep` is to copy.

    Raises:
        UserError: there are several.
    """
    if len(found) > 1:
        names = ", ".join(files.results for files in found)
        raise UserError(
            f"--keep: found {len(found)} studies in {output} ({names}), expected one (give its "
            "command again with an --output_dir of its own beside this one: what other studies "
            "have trained is not trained again)"
        )
    (only,) = found
    return only
