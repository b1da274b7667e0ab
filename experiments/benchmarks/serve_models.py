"""What `bench --suite=serve` asks: two students, and each teacher, at any catalogue size.

A request is a history; its answer is the ten best of all items, those of the history left out. All
models are searched by the same exact `top_k`. Times don't depend on values, so teachers are not
tuned, and items that the data set doesn't have are drawn from those that it has.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.floors import median_seconds, xla_work
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.top_k import TopK, top_k
from prmkd_jax.serve.exported import IDS, SERVED, WEIGHTS, Exported, read_exported
from prmkd_jax.serve.new_items import extend
from prmkd_jax.serve.program import ITEMS, Program
from prmkd_jax.students.layers import dot
from prmkd_jax.students.student import served_parameters
from teachers_torch.optional import held
from teachers_torch.recformer.model import RecformerTeacher, encode
from teachers_torch.sequence.encoder import TensorBatch
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.teacher import Teacher

K = 10
_COUNTED = 32  # instances and items over which a teacher's operations are averaged
_BLOCK = 1000  # items over which the operations of a student's scores are counted


class Requests(NamedTuple):
    """One batch of histories.

    Attributes:
        instances: ids of the instances whose histories these are, for teachers.
        histories: item rows, oldest first.
    """

    instances: Int64[np.ndarray, " B"]
    histories: list[np.ndarray]

    def padded(self, window: int | None) -> np.ndarray:
        """The newest items of each, padded with −1 at the end."""
        width = max(map(len, self.histories)) if window is None else window
        out = np.full((len(self.histories), width), -1, np.int32)
        for row, history in zip(out, self.histories, strict=True):
            row[: min(len(history), width)] = history[-width:]
        return out


Prepare = Callable[[Requests], Callable[[], np.ndarray]]
"""What is made of a batch before it is timed, and the call that is timed."""


@dataclasses.dataclass(frozen=True)
class Served:
    """A model with one catalogue.

    Attributes:
        name: the model's name, for people.
        catalogue: number of items.
        cached: whether the items' vectors are at hand.
        file_bytes: size of the files that are deployed, at the data set's own size; 0 where
            unknown.
        parameters: number of the parameters: a student's that serving needs, a teacher's that are
            trained, at the data set's own size.
        bytes: all that answering holds: a student's arrays; a teacher's weights, and item vectors
            or what they are made of, of which trained rows of single items are part.
        flops: operations of one request.
        added: seconds that each call takes longer than `ask` by itself: making the items' vectors.
        ask: gives the call that answers a batch.
    """

    name: str
    catalogue: int
    cached: bool
    file_bytes: int
    parameters: int
    bytes: int
    flops: float
    added: float
    ask: Callable[[Requests], Callable[[], object]]


def requests(task: Task, count: int, seed: int) -> Requests:
    """Histories of the data set's instances, as many as there are at most.

    Args:
        task: data and split.
        count: how many.
        seed: seed of the draw.
    """
    interactions = task.dataset.interactions
    first = np.zeros(len(interactions.items), bool)
    first[interactions.indptr[:-1][np.diff(interactions.indptr) > 0]] = True
    known = np.flatnonzero(~first)
    drawn = np.random.default_rng(seed).permutation(known)[:count]
    starts = interactions.indptr[interactions.users[drawn]]
    histories = [interactions.items[a:b] for a, b in zip(starts, drawn, strict=True)]
    return Requests(drawn, histories)


def read_student(folder: Path) -> tuple[Exported, int]:
    """An exported student, and the bytes of its files but for the card, which tells its story."""
    return read_exported(folder), sum((folder / f).stat().st_size for f in (WEIGHTS, SERVED, IDS))


def serve_student(name: str, exported: Exported, file_bytes: int, catalogue: int) -> Served:
    """A student whose catalogue is filled up with items drawn from its own.

    Raises:
        UserError: it has more items than that.
    """
    own = len(exported.item_ids)
    if catalogue < own:
        raise UserError(f"--catalogues: found {catalogue}, expected at least {name}'s {own} items")
    drawn = np.random.default_rng(0).integers(0, own, catalogue - own)
    ids = [f"further {number}" for number in range(len(drawn))]
    larger = extend(exported, ids, None, lambda table: table[drawn])
    program = Program(larger, K)
    arrays = {name: jnp.asarray(array) for name, array in program.arrays().items()}
    answer = jax.jit(program.recommend)

    def ask(asked: Requests) -> Callable[[], object]:
        history, seen = (jnp.asarray(asked.padded(width)) for width in (program.window, None))
        users = jnp.full(len(history), -1, jnp.int32)
        return lambda: jax.block_until_ready(answer(arrays, history, users, seen))

    return Served(
        name=name,
        catalogue=catalogue,
        cached=True,
        file_bytes=file_bytes,
        parameters=served_parameters(exported.config.student, exported.params),
        bytes=sum(array.nbytes for array in arrays.values()),
        flops=_student_flops(program, arrays, catalogue),
        added=0.0,
        ask=ask,
    )


def _student_flops(program: Program, arrays: dict[str, jax.Array], catalogue: int) -> float:
    """XLA's count for the user vector and the scores; a loop's body is counted once."""
    history = jnp.zeros((1, program.window or 8), jnp.int32)
    users = jnp.zeros(1, jnp.int32)
    vectors = jax.jit(program.user_vectors).lower(arrays, history, users).compile()
    query = jnp.zeros((1, program.width), jnp.float32)
    block = {**arrays, ITEMS: arrays[ITEMS][:_BLOCK]}
    scores = jax.jit(program.score).lower(block, query).compile()
    per_item = xla_work(scores).flops / len(block[ITEMS])
    return xla_work(vectors).flops + per_item * catalogue


@dataclasses.dataclass(frozen=True)
class MeasuredTeacher:
    """A teacher, and what is known of its costs; independent of the catalogue.

    Attributes:
        teacher: untuned.
        label: the teacher's name, for people.
        prepare: batch → the call that gives its user vectors, the items' being at hand.
        width: width of a vector.
        flops: operations of one user vector.
        item_flops: operations of one item vector.
        item_seconds: time of one item vector, of many made together.
    """

    teacher: Teacher
    label: str
    prepare: Prepare
    width: int
    flops: float
    item_flops: float
    item_seconds: float


def measure_teacher(teacher: Teacher, label: str, asked: Requests) -> MeasuredTeacher:
    """Times and counts its items' vectors once.

    For teachers that read texts through another model (UniSRec and its kin) an item vector is made
    of the text's finished vector, for Recformer of the text itself.
    """
    items, width = teacher.encode_items().shape
    made: Sequence[int] = range(items)
    make: Callable[[], object] = teacher.encode_items
    if isinstance(teacher, RecformerTeacher):
        made = made[:_COUNTED]
        make = _read(teacher, Requests(np.arange(0), [np.array([item]) for item in made]))
    prepare = _prepare(teacher)
    some = Requests(asked.instances[:_COUNTED], asked.histories[:_COUNTED])
    return MeasuredTeacher(
        teacher=teacher,
        label=label,
        prepare=prepare,
        width=width,
        flops=_torch_flops(prepare(some)) / len(some.histories),
        item_flops=_torch_flops(make) / len(made),
        item_seconds=median_seconds(make, repeats=3) / len(made),
    )


def _prepare(teacher: Teacher) -> Prepare:
    if isinstance(teacher, TunedTeacher):
        return _rows_of(teacher)
    if isinstance(teacher, RecformerTeacher):
        return functools.partial(_read, teacher)
    return lambda some: functools.partial(teacher.encode_instances, some.instances)


def _rows_of(teacher: TunedTeacher) -> Prepare:
    """One history a row, the newest items of each; rows and table are made beforehand."""
    model = teacher.model.eval()
    with torch.inference_mode():
        table = model.item_reprs()

    def prepare(some: Requests) -> Callable[[], np.ndarray]:
        shown = [history[-teacher.max_seq_len :] for history in some.histories]
        items = torch.zeros(len(shown), max(map(len, shown)), dtype=torch.int64)
        filled, lengths = torch.zeros_like(items), torch.tensor([len(each) for each in shown])
        for row, history in enumerate(shown):
            items[row, : len(history)] = torch.from_numpy(history.astype(np.int64))
            filled[row, : len(history)] = 1
        places = torch.arange(items.shape[1]).expand_as(items)
        slots = torch.arange(len(shown)) * items.shape[1] + lengths - 1
        batch = TensorBatch(items, filled, places, slots, torch.zeros_like(slots))

        @torch.inference_mode()
        def encoded() -> np.ndarray:
            return model.user_vectors(batch, table[items]).numpy()

        return encoded

    return prepare


def _read(teacher: RecformerTeacher, some: Requests) -> Callable[[], np.ndarray]:
    """The sentences are made beforehand."""
    sequences = [teacher.reader.sequence(history) for history in some.histories]

    def encoded() -> np.ndarray:
        pooled = encode(teacher.model, sequences, teacher.reader, teacher.config)
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    return encoded


def _torch_flops(call: Callable[[], object]) -> float:
    """Operations of matrix products and attention, by PyTorch's count."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def serve_teacher(measured: MeasuredTeacher, catalogue: int) -> list[Served]:
    """A teacher with the items' vectors at hand, and without."""
    teacher, width = measured.teacher, measured.width
    table = jnp.asarray(
        np.random.default_rng(0).standard_normal((catalogue, width), dtype=np.float32)
    )

    def ask(asked: Requests) -> Callable[[], object]:
        seen = jnp.asarray(asked.padded(None))
        encoded = measured.prepare(asked)
        return lambda: jax.block_until_ready(_search(encoded(), table, seen))

    items = len(teacher.encode_items())
    flops = measured.flops + 2.0 * width * catalogue
    shared, of_items = held(teacher)
    with_vectors = Served(
        name=measured.label,
        catalogue=catalogue,
        cached=True,
        file_bytes=0,
        parameters=teacher.num_parameters,
        bytes=shared + table.nbytes,
        flops=flops,
        added=0.0,
        ask=ask,
    )
    without = dataclasses.replace(
        with_vectors,
        cached=False,
        bytes=shared + round(of_items / items * catalogue),
        flops=flops + measured.item_flops * catalogue,
        added=measured.item_seconds * catalogue,
    )
    return [with_vectors, without]


@jax.jit
def _search(queries: Array, table: Array, seen: Array) -> TopK:
    return top_k(dot, queries, table, K, excluded=seen)
