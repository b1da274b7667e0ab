"""The options of single commands."""

import dataclasses

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Which variants of a study are run, and how they differ from its list."""

    variants: tuple[str, ...] = option(
        (),
        "Names of the variants to run; empty runs all. What one is compared with runs as well.",
    )
    variant_flags: str = option(
        "",
        "Flags of single variants, such as their own weights chosen on validation: "
        "name: flag=value flag=value; name,name: flag=value.",
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What is tried, on which model."""

    grid: str = option("", "What to try: name=value,value; several names apart by semicolons.")
    model: str = option(
        "prmkd",
        "Whose validation counts: the plain student, the distilled one, or the teachers.",
        choices=("base", "prmkd", "teachers"),
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class DomainsConfig:
    """What teachers are pre-trained on."""

    domains: tuple[str, ...] = option(
        (),
        "Data sets to pre-train on, none of them the target: folders of --data_dir, or the "
        "synthetic world's other domains, such as synthetic-garden.",
    )

    def __post_init__(self):
        validate(self)
        if not self.domains or len(set(self.domains)) < len(self.domains):
            found = ",".join(self.domains)
            raise UserError(f"--domains: found {found!r}, expected names, each once")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Which finished run is reported again."""

    output_dir: str = option(
        "runs/latest", "Folder of a finished run or study.", filled=True, path=True
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How long is measured."""

    repeats: int = option(40, "Steps timed, after the compiling one.", low=5)

    def __post_init__(self):
        validate(self)
