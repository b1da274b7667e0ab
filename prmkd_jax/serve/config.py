"""What `recommend`, `export` and `update` are asked for."""

import dataclasses
import os

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.config import data_dir_option

FORMATS = ("stablehlo", "onnx", "vectors")
SOURCES = ("input", "dataset", "history", "similar_to")
ROW_SOURCES = ("texts", "teachers", "words", "mean")


@dataclasses.dataclass(frozen=True)
class RecommendConfig:
    """Options of `recommend`; at most one of its four sources is given."""

    model: str = option("", "Folder of an exported student.", path="folder")
    input: str = option(
        "",
        "Source: histories in a file, .jsonl or .parquet, with `history`, a list of item ids, "
        "oldest first, and, where known, `user_id`.",
        path=True,
    )
    dataset: str = option(
        "",
        "Source: all users of a data set with their complete histories, or 'synthetic'. Without "
        "any source, the data set that the student was trained on.",
    )
    history: tuple[str, ...] = option(
        (), "Source: one history, as item ids, oldest first.", repeats=True
    )
    similar_to: tuple[str, ...] = option(
        (), "Source: items, each answered with the items most like it instead.", repeats=True
    )
    data_dir: str = data_dir_option()
    output: str = option(
        "", "File of the answers, .jsonl or .parquet; without it they are printed.", path="file"
    )
    k: int = option(10, "Most items of an answer.", low=1)
    filter_seen: bool = option(True, "Leave out the items of the history.")
    titles: bool = option(False, "Add the items' titles, where they were exported.")
    overwrite: bool = option(False, "Replace --output, or another call's unfinished one.")

    def __post_init__(self):
        validate(self)

    def require(self) -> None:
        """Refuses a call that names no model, or several sources.

        Raises:
            UserError: naming the flags.
        """
        if not self.model:
            raise UserError("--model: found nothing, expected the folder of an exported student")
        given = [f"--{name}" for name in SOURCES if getattr(self, name)]
        if len(given) > 1:
            every = ", ".join(f"--{name}" for name in SOURCES)
            raise UserError(f"found {' and '.join(given)}, expected one of {every}")
        if self.similar_to and not self.filter_seen:
            raise UserError(
                "--filter_seen: found false with --similar_to, where there is no history, expected "
                "true"
            )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Options of `export`."""

    model: str = option("", "Folder of an exported student.", path="folder")
    output_dir: str = option(
        "", "Folder of the artefact, which must be new or empty.", path="folder"
    )
    formats: tuple[str, ...] = option(
        ("stablehlo", "vectors"), "What to write next to the student itself.", choices=FORMATS
    )
    k: int = option(10, "Items that the exported programs give; fixed in them.", low=1)
    license: str = option("", "Licence of the weights, for the model card.")
    explain: bool = option(
        False,
        "Add the teachers' item vectors from --cache_dir, so that recommendations tell how each "
        "teacher ranks them.",
    )
    plain: str = option(
        "", "Folder of the exported plain student, to be added for the same.", path=True
    )
    dataset: str = option(
        "", "For --explain: the data that it was trained on; the card's by default."
    )
    data_dir: str = data_dir_option(path=True)
    cache_dir: str = option(
        os.environ.get("PRMKD_CACHE_DIR") or "cache",
        "Folder of the tuned teachers ($PRMKD_CACHE_DIR, else ./cache).",
        filled=True,
        path=True,
    )
    overwrite: bool = option(False, "Replace an artefact that is there.")

    def __post_init__(self):
        validate(self)

    def require(self) -> None:
        """Refuses a call that names no model or no place, or one student as both.

        Raises:
            UserError: naming the flag.
        """
        if not self.model:
            raise UserError("--model: found nothing, expected the folder of an exported student")
        if not self.output_dir:
            raise UserError("--output_dir: found nothing, expected a folder for the artefact")
        if self.plain and os.path.realpath(self.plain) == os.path.realpath(self.model):
            raise UserError(
                f"--plain: found {self.plain}, the folder of --model, expected that of the plain "
                "student, which it is compared with"
            )


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Options of `update`."""

    from_: str = option(
        "",
        "Yesterday's student: the folder of an exported one, or a .pth file of RecBole's with its "
        "ids.",
        path=True,
    )
    vanished: str = option(
        "drop",
        "Items that only yesterday's student knows: drop them, or keep them as candidates.",
        choices=("drop", "keep"),
    )
    rows_from: str = option(
        "texts",
        "What new items' rows are made of: vectors of their texts, the teachers' vectors of them, "
        "the words of their titles, or the mean row.",
        choices=ROW_SOURCES,
    )
    update_epochs: int = option(5, "Most epochs by which the student is trained on.", low=1)
    scratch: bool = option(True, "Train one from scratch too, to compare with.")

    def __post_init__(self):
        validate(self)

    def require(self) -> None:
        """Refuses a call that names no student.

        Raises:
            UserError: naming the flag.
        """
        if not self.from_:
            raise UserError(
                "--from: found nothing, expected the folder of an exported student, or a .pth file "
                "of RecBole's"
            )
