"""Students that are trained without some items or users: the body of `measure`.

A folder keeps training states, students and the result; the same command goes on in it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from experiments.cli.command import Call, resolve
from experiments.cli.flags import names_of
from experiments.cli.options import MeasureConfig
from experiments.cli.settings import STUDENT, RunConfig, Settings, read_paths, settings_from
from experiments.stages.data import load_task
from experiments.stages.environment import describe_environment
from experiments.stages.exports import student_start
from experiments.stages.identity import run_identity
from experiments.stages.run_folder import claimed, examine, finish
from experiments.stages.starts import check_item_start, item_start
from experiments.stages.students import (
    RunPlace,
    Training,
    check_loss,
    logger,
    make_bank,
    run_name,
    student_facts,
    train_student,
)
from experiments.stages.teachers import (
    check_teachers,
    prepare_teachers,
    teacher_identities,
)
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import moments
from prmkd_jax.data.task import Task, make_task
from prmkd_jax.evaluate.metrics import KEY_METRICS, ranking_metrics
from prmkd_jax.serve.exported import CARD, FILES, export_student
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.registry import label
from teachers_torch.config import PrecomputedConfig, TextConfig
from teachers_torch.given.precomputed import INSTANCES, ITEMS

RESULT, LOG = "measured.json", "log.jsonl"
COLD_ITEMS = "cold_items"
Table = dict[str, dict[str, Any]]
"""A name for each row → its metrics."""


@dataclasses.dataclass(frozen=True)
class PlannedStudent:
    """A student to be trained.

    Attributes:
        name: the name of the student's folder.
        task: the data and split that the student is trained on.
        vectors: those of a teacher that needs no tuning, of instances and items; None where
            `--teachers` names the teachers.
    """

    name: str
    task: Task
    vectors: tuple[np.ndarray, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a measurement consists of.

    Attributes:
        students: those to be trained; all of them have vectors, or none has.
        measure: seed → the table.
        reads: all that the table depends on besides the students, as JSON.
    """

    students: list[PlannedStudent]
    measure: Callable[[int], Table]
    reads: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What a measurement has to work with.

    Attributes:
        settings: the run's settings.
        options: the measurement's options, such as the share that is held out.
        task: the complete data set and its split.
        call: the command.
    """

    settings: Settings
    options: MeasureConfig
    task: Task
    call: Call

    def held(self, count: int) -> np.ndarray:
        """Which of so many are held out, as booleans [count].

        Raises:
            UserError: none would be, or all.
        """
        share = round(self.options.held_out * count)
        if not 0 < share < count:
            raise UserError(
                f"--held_out: found {self.options.held_out:g}, which holds out {share} of {count}, "
                "expected some and not all"
            )
        out = np.zeros(count, bool)
        rng = np.random.default_rng(self.options.held_out_seed)
        out[rng.permutation(count)[:share]] = True
        return out

    def require_some(self, chosen: Bool[np.ndarray, " test"], whose: str) -> None:
        """Refuses to measure on nothing, before anything is trained.

        Args:
            chosen: the test targets that are measured.
            whose: the items or users that these are the targets of, in words.

        Raises:
            UserError: there are none.
        """
        if not chosen.any():
            raise UserError(
                f"--held_out: found {self.options.held_out:g}, with which none of {len(chosen)} "
                f"test targets is of {whose}, expected at least one (another --held_out_seed "
                "chooses others)"
            )

    def task_of(self, dataset: Dataset) -> Task:
        """The smaller data set, divided as the complete one is: at its moments, not its shares."""
        data = self.settings.data
        complete = self.task.dataset
        if data.split != "temporal":
            return make_task(dataset, data.split)
        cuts = moments(complete.interactions, data.cuts, complete.name)
        return make_task(dataset, data.split, cuts)

    def train(self, student: PlannedStudent, seed: int) -> Recommender:
        """The student at its best epoch on validation, trained now or read back."""
        output = Path(self.settings.run.output_dir)
        settings = self.settings_of(student)
        folder = output / folder_of(student, seed)
        if not (folder / CARD).is_file():
            facts = student_facts(student.task, settings)
            place = RunPlace(output, output / LOG, output / "checkpoints" / student.name)
            log = logger(place.log)
            found = teacher_identities(student.task, settings)
            reporter = self.call.reporter
            teachers = prepare_teachers(found, student.task, settings, reporter, log)
            bank = make_bank(teachers, settings, student.task.dataset.num_items)
            reporter.say(f"{student.name}: {student.task.dataset.num_items} items")
            items = item_start(settings, student.task, teachers, reporter)
            training = Training(student.task, facts, settings, bank, items=items, rank_test=False)
            trained = train_student(training, seed, place, reporter, log)
            params = trained.fitted.params
            export_student(folder, params, settings.student, facts, student.task.dataset)
        return Recommender.load(folder)

    def settings_of(self, student: PlannedStudent) -> Settings:
        """The run's settings; a student with vectors is taught by them alone."""
        if student.vectors is None:
            return self.settings
        folder = Path(self.settings.run.output_dir) / vectors_of(student)
        return _taught(self.call, self.settings.run, str(folder))

    def write_vectors(self, student: PlannedStudent) -> None:
        """Writes a student's vectors where `settings_of` names them."""
        if student.vectors is None:
            return
        folder = Path(self.settings.run.output_dir) / vectors_of(student)
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip((INSTANCES, ITEMS), student.vectors, strict=True):
            with writing(folder / name) as partial, partial.open("wb") as stream:
                np.save(stream, array.astype(np.float32))

    def identity(self, plan: Plan) -> dict[str, Any]:
        """What the measurement's numbers depend on; the students' own settings are all the same.

        Raises:
            UserError: an input file is missing.
        """
        settings = self.settings_of(plan.students[0])
        identity = run_identity(self.call.configs, settings, self.task, ())
        identity["settings"] |= {
            "measure": self.call.topic,
            "seeds": list(settings.run.seeds),
            **dataclasses.asdict(self.options),
        }
        for student in plan.students:
            if student.vectors is not None:
                identity["teachers"][f"{student.name} vectors"] = _digest(student.vectors)
                continue
            for each in teacher_identities(student.task, settings):
                identity["teachers"][f"{student.name} {each.name}"] = each.key
        return {**identity, **plan.reads}


def measuring_of(call: Call) -> Measuring:
    """What a call has to work with; its settings are without what the command ignores of a run.

    Raises:
        UserError: there is no such data set, or it can't be divided.
    """
    settings = call.settings
    ignored = f"{STUDENT}="
    run = dataclasses.replace(
        settings.run,
        init=tuple(entry for entry in settings.run.init if not entry.startswith(ignored)),
        export_recbole=False,
        log_to="",
    )
    settings = dataclasses.replace(settings, run=run)
    return Measuring(settings, call.config(MeasureConfig), load_task(settings), call)


def variations(call: Call) -> list[Settings]:
    """The settings of the students, but for the place of a text teacher's vectors.

    Raises:
        UserError: settings that don't fit one teacher.
    """
    if call.topic == COLD_ITEMS and call.config(MeasureConfig).text_teacher:
        return [_taught(call, call.settings.run, call.settings.run.output_dir)]
    return [call.settings]


def reads(call: Call) -> frozenset[str]:
    """Names of the flags by which texts are read, whatever the students are."""
    groups = [group for group in call.command.groups if group.config is TextConfig]
    return frozenset(names_of(groups) if call.topic == COLD_ITEMS else ())


def _taught(call: Call, run: RunConfig, folder: str) -> Settings:
    """The settings of a student that vectors in a folder teach, in place of `--teachers`."""
    run = dataclasses.replace(run, teachers=("precomputed",))
    given = PrecomputedConfig(folder=folder, normalize=True)
    return settings_from({**call.configs, RunConfig: run, PrecomputedConfig: given})


def vectors_of(student: PlannedStudent) -> str:
    """Where a student's teacher has its vectors, in the output folder."""
    return f"vectors/{student.name}"


def folder_of(student: PlannedStudent, seed: int) -> str:
    """Where a trained student is, in the output folder."""
    return f"students/{student.name}-seed{seed}"


def run(call: Call) -> None:
    """Trains, measures and writes `measured.json`; of a finished measurement shows it again."""
    measuring = measuring_of(call)
    settings = measuring.settings
    plan: Plan = resolve(call.command.topics[call.topic])(measuring)
    output = Path(settings.run.output_dir)
    identity = measuring.identity(plan)
    files = [RESULT, LOG]
    for student in plan.students:
        facts = student_facts(student.task, settings)
        check_loss(student.task, facts, measuring.settings_of(student), rank_test=False)
        student_start(settings, student.task, facts)
        check_item_start(measuring.settings_of(student), student.task)
        if student.vectors is None:
            teachers = teacher_identities(student.task, settings)
            check_teachers(teachers, student.task, settings)
        else:
            files += [f"{vectors_of(student)}/{name}" for name in (INSTANCES, ITEMS)]
        for seed in settings.run.seeds:
            name = run_name(measuring.settings_of(student), seed)
            files.append(f"checkpoints/{student.name}/{name}/")
            files += [f"{folder_of(student, seed)}/{file}" for file in FILES]
    folder = examine(
        output,
        identity,
        files,
        overwrite=settings.run.overwrite,
        reads=read_paths(call.configs),
    )
    if folder.found != "finished":
        with claimed(folder):
            for student in plan.students:
                measuring.write_vectors(student)
            found = {
                "student": label(settings.student),
                "dataset": measuring.task.dataset.name,
                "identity": identity,
                "environment": describe_environment(),
                "seeds": {str(seed): plan.measure(seed) for seed in settings.run.seeds},
            }
            write_sealed_json(output / RESULT, found)
            finish(folder)
    for line in _lines(output / RESULT):
        print(line)


def metrics(ranks: Float[np.ndarray, " instances"]) -> dict[str, float]:
    """Metrics of one target a history, and their number."""
    return {"instances": len(ranks), **ranking_metrics(ranks)}


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over arrays as `write_vectors` writes them, in hex."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + array.astype(np.float32).tobytes())
    return digest.hexdigest()


def _lines(path: Path) -> Iterable[str]:
    """A table of the result: the mean over seeds.

    Raises:
        UserError: the file is damaged.
    """
    try:
        found = read_sealed_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({error}), expected a measurement (--overwrite measures again)"
        ) from error
    seeds: list[Mapping[str, Mapping[str, Any]]] = list(found["seeds"].values())
    counted = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    yield f"{found['student']} on {found['dataset']}, {counted}"
    yield f"{'':58}{'instances':>10}" + "".join(f"{name:>11}" for name in KEY_METRICS)
    for row in sorted(seeds[0]):
        values = [np.mean([seed[row][name] for seed in seeds]) for name in KEY_METRICS]
        count = seeds[0][row]["instances"]
        yield f"{row:58}{count:>10}" + "".join(f"{value:>11.4f}" for value in values)
