"""The frame of studies that train nothing: what they find as JSON, Markdown and figures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli.command import Call
from experiments.cli.settings import read_paths
from experiments.reporting.plotting import Sketch
from experiments.stages.record import SCHEMA_VERSION, read_versioned
from experiments.stages.run_folder import claimed, examine, finish
from prmkd_jax.common.files import write_text
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.common.texts import read_text

ANALYSES = ("table2", "cold_start", "efficiency")
"""Names of the studies that train nothing."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What such a study finds.

    Attributes:
        content: the results as JSON content, without the version.
        markdown: the same for people.
        sketches: figures by name, one for each name that was announced.
    """

    content: Mapping[str, Any]
    markdown: str
    sketches: Mapping[str, Sketch]


def analysis_files(name: str, figures: Sequence[str]) -> list[str]:
    """The files that such a study leaves in `--output_dir`.

    >>> analysis_files("table2", ["table2"])
    ['table2.json', 'table2.md', 'table2.svg', 'table2.png']
    """
    drawn = [f"{figure}{end}" for figure in figures for end in (".svg", ".png")]
    return [f"{name}.json", f"{name}.md", *drawn]


def analyse(
    call: Call,
    name: str,
    identity: Mapping[str, object],
    figures: Sequence[str],
    find: Callable[[], Found],
) -> None:
    """Finds and writes; of a finished study the table is shown again, and its files stay.

    Args:
        call: the command.
        name: the name of the study and its files.
        identity: all that it depends on.
        figures: names of its figures.
        find: does the work.

    Raises:
        UserError: another study's files lie there, or as `find`.
    """
    run = call.settings.run
    output = Path(run.output_dir)
    folder = examine(
        output,
        {"settings": {"study": name}, **identity},
        analysis_files(name, figures),
        overwrite=run.overwrite,
        reads=read_paths(call.configs),
        manifest=f"{name}_run.json",
    )
    if folder.found == "finished":
        call.reporter.say(f"{output}: this study is finished; --output_dir=… makes another")
        read_versioned(output / f"{name}.json")
    else:
        found = find()
        with claimed(folder):
            content = {"schema_version": SCHEMA_VERSION, **found.content}
            write_sealed_json(output / f"{name}.json", content)
            write_text(output / f"{name}.md", found.markdown)
            for figure, sketch in found.sketches.items():
                sketch.save(output / figure)
            finish(folder)
    table = output / f"{name}.md"
    call.reporter.say(read_text(table, str(table), "the study's table"))
    call.reporter.say(f"Written to {output / name}.json and .md, figures next to them")
