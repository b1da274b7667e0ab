"""The options of single commands."""

import dataclasses
from collections.abc import Sequence

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.config import data_dir_option
from prmkd_jax.students.config import BUILT_IN, STUDENT_NAMES

SUITES = (
    *("train", "students", "distill", "evaluate", "teachers", "compile", "scale", "memory"),
    *("devices", "end_to_end", "serve", "peers"),
)
"""Choices of `bench --suite`."""
PEERS = (
    *("packed", "packed-prmkd", "recbole-sasrec", "recbole-gru4rec", "recbole-bert4rec"),
    *("recbole-fm", "recbole-deepfm", "recbole-lightgcn", "rectools", "rectools-fast", "replay"),
)
"""Choices of `bench --peers`."""


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
    datasets: tuple[str, ...] = option(
        (),
        "Data sets, each of which the study is made for, in place of --dataset; for table2 empty "
        "takes all in --data_dir.",
    )
    dataset_flags: str = option(
        "",
        "Flags of single data sets, chosen on their own validation parts, written as "
        "--variant_flags; those of others in --data_dir than --datasets are left out.",
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What is tried, on which model."""

    grid: str = option(
        "",
        "What to try: name=value,value; several names apart by semicolons. Without it the settings "
        "are tried as given.",
    )
    space: str = option(
        "",
        "In place of --grid: what to draw from, by Optuna's TPE: name=low:high, "
        "name=low:high:log or name=value,value, apart by blanks. After a few trials one whose "
        "validation NDCG@10 is below the others' median at an epoch is stopped.",
    )
    trials: int = option(
        20, "With --space: trials in all; more of them go on from those made.", low=1, high=10_000
    )
    search_seed: int = option(0, "With --space: seed of what is drawn.", low=0, high=2**31)
    model: str = option(
        "prmkd",
        "Whose validation counts: the plain student, the distilled one, or the teachers.",
        choices=("base", "prmkd", "teachers"),
    )

    def __post_init__(self):
        validate(self)
        if self.space and self.grid:
            raise UserError("found --grid and --space, expected one of them")
        if self.space and self.model == "teachers":
            raise UserError("--model: found 'teachers', expected base or prmkd with --space")


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
        if not self.domains:
            raise UserError("--domains: found '', expected names, each once")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Which finished run is reported again."""

    output_dir: str = option(
        "runs/latest", "Folder of a finished run or study.", filled=True, path="folder"
    )
    page: str = option(
        "",
        "HTML file: all that is finished in --output_dir and in the folders in it on one page, in "
        "place of each study's own.",
        path="file",
    )
    keep: str = option(
        "",
        "JSON file: a small copy of the results and times of the one study in --output_dir, for "
        "--fill.",
        path="file",
    )
    fill: tuple[str, ...] = option(
        (),
        "Markdown files whose blocks `<!-- made of NAME -->` and `<!-- made of NAME: VIEW -->` are "
        "made again of the small copies in --output_dir, of all of them where NAME is *.json; "
        "figures go into the folder figures beside each page.",
        path="file",
    )

    def __post_init__(self):
        validate(self)
        given = [f"--{name}" for name in ("page", "keep", "fill") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"found {' and '.join(given)}, expected one of them")
        if self.page and not self.page.endswith((".html", ".htm")):
            raise UserError(f"--page: found {self.page!r}, expected a name that ends in .html")


@dataclasses.dataclass(frozen=True)
class TeachConfig:
    """Who teaches, and where the files go."""

    models: tuple[str, ...] = option(
        (),
        "Folders of exported students, which together make one teacher: its scores are the mean "
        "of theirs.",
        path=True,
    )
    output_dir: str = option(
        "", "Folder of the teacher's files, which must be new or empty.", path="folder"
    )
    dataset: str = option("", "The data that they were trained on; the first card's by default.")
    data_dir: str = data_dir_option()

    def __post_init__(self):
        validate(self)

    def require(self) -> None:
        """Refuses a call that names no student or no place.

        Raises:
            UserError: naming the flag.
        """
        if not self.models:
            raise UserError("--models: found nothing, expected folders of exported students")
        if not self.output_dir:
            raise UserError("--output_dir: found nothing, expected a folder for the files")


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is measured, and for how long."""

    suite: str = option(
        "train",
        "What is measured. train: steps, an epoch and a ranking, with floors; students: the same "
        "of every student; distill: steps by number of teachers and by where they are scored; "
        "evaluate: rankings; teachers: their tuning, encoding and ranking; compile: compilations, "
        "new and from the cache; scale: how costs grow; memory: one epoch and one ranking at a "
        "large size; devices: what each of 1 to 8 devices computes, sends and holds; "
        "end_to_end: a run from nothing; serve: requests to the finished models; peers: our "
        "students beside other libraries'.",
        choices=SUITES,
    )
    repeats: int = option(
        40,
        "train, students, devices: steps timed, after the compiling one; devices times none where "
        "a CPU simulates them.",
        low=5,
        high=10**6,
    )
    largest: int = option(
        1_000_000, "scale: most items and users of the curves.", low=10_000, high=10**8
    )
    made_users: int = option(1_000_000, "memory: users.", low=10, high=10**8)
    made_items: int = option(1_000_000, "memory: items.", low=10, high=10**8)
    made_interactions: int = option(
        10_000_000, "memory: interactions, at least 4 a user.", low=40, high=10**9
    )
    made_ranked: int = option(100_000, "memory: test users that are ranked.", low=1)
    plain: str = option(
        "",
        "serve: folder of the plain student's export; without --plain and --distilled both are "
        "made with random weights.",
        path=True,
    )
    distilled: str = option("", "serve: folder of the distilled student's export.", path=True)
    catalogues: tuple[int, ...] = option(
        (10_000, 100_000, 1_000_000), "serve: numbers of items.", low=1
    )
    batches: tuple[int, ...] = option(
        (1, 8, 64, 256, 1024), "serve: histories that are answered at once.", low=1
    )
    seconds: float = option(
        3.0, "serve: for which one model, catalogue and batch are timed; at least 5 calls.", above=0
    )

    peers: tuple[str, ...] = option(PEERS, "peers: who is measured beside ours.", choices=PEERS)
    peer_seconds: float = option(
        12.0,
        "peers: for which the epochs of one process are timed, after one that doesn't count; an "
        "epoch that takes longer is extrapolated from the share that was done.",
        above=0,
    )
    peer_rounds: int = option(1, "peers: processes of ours and of a peer's, in turns.", low=1)
    peer_target: float = option(
        0.0,
        "peers: a validation NDCG@10; then all are trained until validation stops them, and the "
        "seconds until this value and the test metrics are told.",
        low=0,
        below=1,
    )

    def __post_init__(self):
        validate(self)
        _require_some("--peers", self.peers)
        if self.made_interactions < 4 * self.made_users:
            raise UserError(
                f"--made_interactions: found {self.made_interactions}, expected at least 4 times "
                f"--made_users={self.made_users}"
            )
        if bool(self.plain) != bool(self.distilled):
            raise UserError("--plain, --distilled: found one of them, expected both or none")
        _require_some("--catalogues", self.catalogues)
        _require_some("--batches", self.batches)


@dataclasses.dataclass(frozen=True)
class LoadConfig:
    """How hard the service is asked."""

    rate: float = option(500.0, "Requests a second.", low=1, high=1e5)
    seconds: float = option(20.0, "Seconds for which they are sent.", above=0, high=1e5)
    mixed: int = option(10_000, "Good and hostile requests after them.", low=2, high=10**7)
    many: int = option(
        0,
        "Requests after those, as fast as they are answered, for the service's memory; 1,800,000 "
        "are an hour's worth at 500 a second.",
        low=0,
    )
    reloads: int = option(3, "Newer models that are put in place under load.", low=0, high=1000)
    output: str = option("", "JSON file of the figures.", path="file")

    def __post_init__(self):
        validate(self)
        if round(self.rate * self.seconds) < 1:
            raise UserError(
                f"--seconds: found {self.seconds:g}, in which --rate={self.rate:g} sends nothing, "
                "expected at least one request"
            )


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """Who is kept out of training."""

    held_out: float = option(
        0.1, "Share of the items, or of the users, kept out of training.", above=0, below=1
    )
    held_out_seed: int = option(0, "Seed that chooses them.", low=0)
    text_teacher: bool = option(
        False,
        "For cold_items: distil from vectors of the text encoder in place of --teachers: an item's "
        "own, and for a history those of its three newest items with weights 1, 1/2 and 1/4.",
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class PortabilityConfig:
    """What is compared between platforms."""

    students: tuple[str, ...] = option(
        BUILT_IN, "Students whose programs are compared.", choices=STUDENT_NAMES
    )
    platforms: tuple[str, ...] = option(
        ("cpu", "cuda", "tpu"),
        "Platforms that the programs are lowered for; none of them need be there.",
        choices=("cpu", "cuda", "rocm", "tpu"),
    )
    tpu_batch_size: int = option(
        64,
        "Instances of the programs that libtpu compiles, at most --batch_size: its time grows with "
        "them, for BERT4Rec's step with 512 to seven minutes.",
        low=1,
    )
    curve_seeds: tuple[int, ...] = option(
        (0, 1, 2), "Seeds of the trainings in each arithmetic.", low=0, high=2**32 - 1
    )
    curve_epochs: int = option(
        8, "Epochs of each of these trainings, on a small world; 0 trains none.", low=0
    )

    def __post_init__(self):
        validate(self)
        if not self.students or not self.platforms:
            raise UserError("--students, --platforms: found none, expected at least one")
        if len(self.curve_seeds) < 2 and self.curve_epochs:
            raise UserError(
                f"--curve_seeds: found {len(self.curve_seeds)} seeds, expected at least 2, so that "
                "they have a spread"
            )


def _require_some(flag: str, values: Sequence[object]) -> None:
    if not values:
        raise UserError(f"{flag}: found none, expected at least one")
