"""One folder for production: a student, its programs, vectors, a card, a self-check, digests.

student.json, ids.json, *.safetensors   the exported student; `Recommender.load` opens it
stablehlo/    recommend.bin, user_vectors.bin (jax.export) and arrays.npz, their first argument
onnx/         recommend.onnx, user_vectors.onnx, with the arrays in them
vectors/      items.npy, item_ids.json; users.npy, user_ids.json where users have vectors
check.npz     inputs with the outputs expected of them
explain.*, plain/  with --explain and --plain: the teachers' item vectors, the plain student
README.md     the model card
artifact.json what the programs take and give
manifest.json SHA-256 of every other file; it comes last
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from prmkd_jax.common.cache import held
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import write_json, write_text, writing_folder
from prmkd_jax.common.places import require_apart
from prmkd_jax.common.reading import read_json
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.serve import explain
from prmkd_jax.serve.card import Explained, Interface, ProgramInterface
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.explain import TeacherView
from prmkd_jax.serve.exported import FILES, Exported, read_card, read_complete_card, read_exported
from prmkd_jax.serve.formats import CHECKS, PLATFORMS, WRITERS
from prmkd_jax.serve.model_card import model_card
from prmkd_jax.serve.program import ITEMS, Program
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.self_check import CHECK, close, read_check
from prmkd_jax.students.registry import about

FORMAT = 1
MANIFEST, INTERFACE = "manifest.json", "artifact.json"

# Histories of the self-check.
_CHECKED = 8


def write_artifact(
    config: ExportConfig,
    say: Callable[[str], None] = print,
    teachers: Sequence[TeacherView] = (),
    student: str | None = None,
) -> None:
    """Writes the folder and checks what it wrote; an error leaves the old one as it was.

    Of an old artefact only the files that its manifest lists are ever removed.

    Args:
        config: the student to export, the folder and the formats.
        say: receives a line of text for each finished part.
        teachers: the teachers that explanations tell of, for `--explain`.
        student: the digest of the card of the student that they taught; None where it isn't known.

    Raises:
        UserError: the student can't be read or has no such form, another one has taken its place,
            a package is missing, or the folder holds something else.
    """
    folder = Path(config.output_dir)
    model = Path(config.model)
    exported = read_exported(model)
    if student not in (None, exported.card["digest"]):
        raise _replaced(model)
    explained = _explained(config, teachers)
    if _is_made(folder, exported.card["digest"], config, explained):
        say(f"{folder}: made before, of this student with these flags")
        for line in check_artifact(folder):
            say(line)
        return
    _require_free(folder, config)
    if config.k > len(exported.item_ids):
        raise UserError(f"--k: found {config.k}, expected at most {len(exported.item_ids)} items")
    program = Program(exported, config.k)
    check = _check_arrays(program)
    inner_product = is_inner_product(program, check)
    if not inner_product:
        _require_no_vectors(config, exported)
    plain = _plain_student(config, exported)
    with held(folder.parent, folder.name), writing_folder(folder) as partial:
        _copy_student(model, partial, exported.card["digest"])
        if plain is not None:
            _copy_student(plain, partial / explain.PLAIN, explained["plain_digest"])
        if teachers:
            explain.write_explanation(partial, teachers)
        np.savez(partial / CHECK, **cast(dict[str, Any], check))
        for name in config.formats:
            WRITERS[name](partial / name, program, inner_product)
            say(f"{folder / name}: written")
        interface: Interface = {**_interface(program, config, inner_product), **explained}
        write_json(partial / INTERFACE, interface)
        write_text(partial / "README.md", model_card(exported.card, interface))
        _write_manifest(partial)
        for line in check_artifact(partial):
            say(line)
        _require_free(folder, config)  # once more: it took minutes


def _require_no_vectors(config: ExportConfig, exported: Exported) -> None:
    if "vectors" in config.formats:
        raise UserError(
            f"--formats: vectors: found {exported.card['label']}, whose score is no inner "
            "product, expected stablehlo or onnx"
        )


def _copy_student(model: Path, folder: Path, digest: str | None) -> None:
    """Copies an export; a link may lead to another one since this one was read.

    Raises:
        UserError: the copy isn't the one with this digest.
    """
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(model / name, folder / name)
    with contextlib.suppress(UserError):
        if read_complete_card(folder)["digest"] == digest:
            return
    raise _replaced(model)


def _replaced(model: Path) -> UserError:
    return UserError(f"{model}: found it replaced while it was read, expected it to stay")


def check_artifact(folder: str | Path) -> list[str]:
    """Compares digests, and what the programs give with what they gave when they were exported.

    Returns:
        a line for each format; ONNX is passed over where ONNX Runtime isn't installed.

    Raises:
        UserError: a file is missing or damaged, or a program's outputs differ.
    """
    folder = Path(folder)
    for name, digest in _listed(folder).items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise UserError(f"{folder / name}: damaged: its SHA-256 is not the one in {MANIFEST}")
    formats = _read_json(folder / INTERFACE).get("formats")
    if not isinstance(formats, list) or not all(name in list(CHECKS) for name in formats):
        raise UserError(
            f"{folder / INTERFACE}: formats: found {formats!r}, expected some of "
            f"{', '.join(CHECKS)}"
        )
    check = read_check(folder / CHECK)
    return [_run_check(folder / name, check) for name in formats]


def _run_check(folder: Path, check: Mapping[str, np.ndarray]) -> str:
    try:
        return CHECKS[folder.name](folder, check)
    except UserError:
        raise
    except Exception as error:  # whatever a library says of a file that it can't run
        raise UserError(
            f"{folder}: found files that can't be run ({first_line(error)}), expected those that "
            "were exported"
        ) from error


def is_inner_product(program: Program, check: Mapping[str, np.ndarray]) -> bool:
    """Whether a score is the user vector times the item's row, as a nearest-item search needs."""
    arrays = program.arrays()
    table = arrays[ITEMS]
    if program.width != table.shape[1]:
        return False
    vectors = check["vectors"]
    scores = program.score(jax.tree.map(jnp.asarray, arrays), jnp.asarray(vectors))
    return close(vectors @ table.T, np.asarray(scores))


def _explained(config: ExportConfig, teachers: Sequence[TeacherView]) -> Explained:
    """What an artefact tells of others than the student, as its interface says it."""
    plain = read_card(Path(config.plain))["digest"] if config.plain else None
    return {"explains": [view.name for view in teachers], "plain_digest": plain}


def _is_made(folder: Path, model_digest: str, config: ExportConfig, explained: Explained) -> bool:
    """Whether the same command has made the artefact that is there."""
    if config.overwrite or not (folder / MANIFEST).is_file():
        return False
    path = folder / INTERFACE
    if not path.is_file() or _listed(folder).get(INTERFACE) != file_digest(path):
        return False
    interface = _read_json(path)
    asked = {
        "format": FORMAT,
        "model_digest": model_digest,
        "formats": list(config.formats),
        "k": config.k,
        "license": config.license,
        **explained,
    }
    return asked == {name: interface.get(name) for name in asked}


def _require_free(folder: Path, config: ExportConfig) -> None:
    """Refuses to replace anything unasked, and with `--overwrite` all but an artefact's own files.

    Raises:
        UserError: naming what is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"--output_dir: found {folder}, no artefact, expected a new or empty folder"
        )
    if not config.overwrite:
        raise UserError(f"--output_dir: found {folder}, expected a new folder, or --overwrite")
    sources = (Path(path) for path in (config.model, config.plain) if path)
    require_apart(sources, folder, "--output_dir")
    listed = {MANIFEST, *_listed(folder)}
    for path in sorted(folder.rglob("*")):
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and path.relative_to(folder).as_posix() not in listed:
            raise UserError(
                f"--output_dir: found {path}, which {MANIFEST} there doesn't list, expected only "
                "what export has written (move it, or take another folder)"
            )


def _plain_student(config: ExportConfig, exported: Exported) -> Path | None:
    """The plain student's folder, once it is seen to know the same items.

    Raises:
        UserError: it can't be read, or knows others.
    """
    if not config.plain:
        return None
    found = read_exported(Path(config.plain)).item_ids
    if set(found) != set(exported.item_ids):
        raise UserError(
            f"--plain: found {config.plain} with {len(found)} items, expected the "
            f"{len(exported.item_ids)} of --model"
        )
    return Path(config.plain)


def _check_arrays(program: Program) -> dict[str, np.ndarray]:
    """Inputs drawn with seed 0, and what the `Recommender` answers: another way to the same."""
    exported, rng = program.exported, np.random.default_rng(0)
    width = program.window or 8
    history = np.full((_CHECKED, width), -1, np.int32)
    for row, length in zip(history, rng.integers(1, width + 1, _CHECKED), strict=True):
        row[:length] = rng.integers(0, len(exported.item_ids), length)
    users = np.full(_CHECKED, -1, np.int32)
    if exported.user_ids is not None:
        users[::2] = rng.integers(0, len(exported.user_ids), len(users[::2]))
    ids, owners = exported.item_ids, exported.user_ids or ()
    answers = Recommender(exported).recommend(
        [[ids[item] for item in row if item >= 0] for row in history],
        program.k,
        users=[owners[user] if user >= 0 else None for user in users],
    )
    row_of = {item: row for row, item in enumerate(ids)}
    items = np.full((_CHECKED, program.k), -1, np.int32)
    scores = np.full((_CHECKED, program.k), -np.inf, np.float32)
    for row, answer in enumerate(answers):
        items[row, : len(answer.items)] = [row_of[one.item] for one in answer.items]
        scores[row, : len(answer.items)] = [one.score for one in answer.items]
    arrays = jax.tree.map(jnp.asarray, program.arrays())
    vectors = np.asarray(program.user_vectors(arrays, jnp.asarray(history), jnp.asarray(users)))
    inputs = {"history": history, "users": users, "excluded": history}
    return {**inputs, "items": items, "scores": scores, "vectors": vectors}


def _interface(program: Program, config: ExportConfig, inner_product: bool) -> ProgramInterface:
    exported = program.exported
    return {
        "format": FORMAT,
        "formats": list(config.formats),
        "student": exported.card["label"],
        "model_digest": exported.card["digest"],
        "k": program.k,
        "window": program.window,
        "own_slot": about(exported.config.student).own_slot,
        "inner_product": inner_product,
        "items": len(exported.item_ids),
        "users": 0 if exported.user_ids is None else len(exported.user_ids),
        "license": config.license,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
    }


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    write_sealed_json(folder / MANIFEST, {"format": FORMAT, "files": digests})


def _listed(folder: Path) -> Mapping[str, str]:
    """Name → digest of an artefact's files.

    Raises:
        UserError: the manifest is missing or damaged, or lists none.
    """
    files = _read_manifest(folder).get("files")
    if not isinstance(files, dict):
        raise UserError(f"{folder / MANIFEST}: files: found none, expected names and digests")
    return files


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The digests.

    Raises:
        UserError: they are missing or damaged.
    """
    path = folder / MANIFEST
    try:
        return read_sealed_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: missing or damaged ({first_line(error)}), expected an artefact (export the "
            "student again, into another folder)"
        ) from error


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: found no readable JSON, expected an artefact") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found no JSON object, expected an artefact")
    return content
