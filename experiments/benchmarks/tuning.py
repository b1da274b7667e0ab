"""What teachers take to tune: `bench --suite=teachers`.

Next to each step its two floors: its operations at the machine's speed of matrix products, and the
bytes that its operations read and write at its speed of copying. Teachers that aren't tuned by
gradients are left out.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.timing import FEWEST, BenchRow, once, seconds_of
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from prmkd_jax.common.cache import Cache
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.task import Task
from teachers_torch.registry import kind
from teachers_torch.sequence.encoder import to_tensors
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.states import best_device
from teachers_torch.tuning import evaluate

# On a GPU the call alone takes as long as a product of the smaller ones.
_MATRIX = {"cpu": 2048, "cuda": 8192}
_COPIED = {"cpu": 2**26, "cuda": 2**28}


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, as if nothing stayed in a cache.

    Attributes:
        bytes: size of all tensors that went in and came out; views cost nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and adds its bytes."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = tree_leaves((args, kwargs, out))
            self.bytes += sum(each.nbytes for each in tensors if isinstance(each, torch.Tensor))
        return out


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """Rows for each of `--teachers`."""
    task = load_task(settings)
    cache = Cache(Path(settings.run.cache_dir))
    flops, bandwidth = _speeds(best_device())
    rows = [
        once("machine, float32 matrix product", flops / 1e9, "GFLOP/s"),
        once("machine, read and write", bandwidth / 1e9, "GB/s"),
    ]
    for name in settings.run.teachers:
        torch.manual_seed(settings.run.teacher_seed)
        teacher = kind(name).build(task, settings.teachers, cache, lambda _: None)
        if isinstance(teacher, TunedTeacher):
            rows += _of_teacher(teacher, task, flops, bandwidth)
            say(f"{name}: a step {rows[-7].value:.3g} s, an epoch {rows[-2].value:.3g} s")
    return rows


def _of_teacher(
    teacher: TunedTeacher, task: Task, flops: float, bandwidth: float
) -> list[BenchRow]:
    model, config = teacher.model, teacher.config
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    batches = TrainingBatches(task, teacher.max_seq_len, config.batch_size, 0)
    endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))

    def step() -> float:
        tensors = to_tensors(next(endless), device)
        started = _now(device)
        optimizer.zero_grad()
        model.loss(tensors).backward()
        optimizer.step()
        return _now(device) - started

    model.train()
    step()
    times = [step() for _ in range(FEWEST)]
    with FlopCounterMode(display=False) as counted:
        step()
    with Traffic() as traffic:
        step()
    validation, encoding = [], []
    for _ in range(FEWEST):
        started = time.perf_counter()
        evaluate(teacher, task, task.split.validation)
        validation.append(time.perf_counter() - started)
    ids = np.arange(len(task.dataset.interactions.items))
    for _ in range(FEWEST):
        started = time.perf_counter()
        teacher.encode_instances(ids)
        encoding.append(time.perf_counter() - started)
    steps = sum(1 for _ in batches.epoch(0))
    name = teacher.name
    epoch = steps * float(np.median(times)) + float(np.median(validation))
    work = counted.get_total_flops()
    return [
        seconds_of(f"{name} step", times),
        once(f"{name} step, floor of the operations", work / flops, "s"),
        once(f"{name} step, floor of the traffic", traffic.bytes / bandwidth, "s"),
        once(f"{name} step, operations", work / 1e9, "GFLOP"),
        seconds_of(f"{name} validation", validation),
        once(f"{name} epoch with validation, {steps} steps", epoch, "s"),
        seconds_of(f"{name} encoding of all instances", encoding),
    ]


def _speeds(device: torch.device) -> tuple[float, float]:
    """Operations a second of a large matrix product, and bytes a second of a large copy."""
    size, copied = _MATRIX[device.type], _COPIED[device.type]
    matrix = torch.randn(size, size, device=device)
    big, other = torch.ones(copied, device=device), torch.empty(copied, device=device)
    products, copies = [], []
    for _ in range(FEWEST + 1):
        started = _now(device)
        torch.mm(matrix, matrix)
        between = _now(device)
        other.copy_(big)
        products.append(between - started)
        copies.append(_now(device) - between)
    product, copy = (float(np.median(each[1:])) for each in (products, copies))
    return 2 * size**3 / product, 2 * big.nbytes / copy


def _now(device: torch.device) -> float:
    """Seconds, once all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
