"""A PRM-KD step in plain PyTorch, for the same packed SASRec and the same teachers.

Eq. 1–6 of arXiv 2401.00797 for a whole batch at once, in the readings that the shipped
configurations have. The loss equals that of our step, which is tested.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiments.benchmarks.peers.packed_sasrec import PackedSASRec
from prmkd_jax.data.batches import Batch
from prmkd_jax.data.columns import Columns, in_batch_columns
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import DistillConfig

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class TeacherTensors:
    """One teacher's vectors, float16.

    Attributes:
        instances: [N, d].
        items: [V, d].
        scale: factor from a dot product to a logit.
    """

    instances: Tensor
    items: Tensor
    scale: float


def refusal(config: DistillConfig) -> str:
    """Why this step doesn't know a distillation; "" where it does."""
    known = {
        "method": ("prmkd",),
        "score_normalization": ("zscore_softmax",),
        "kl": ("forward", "reverse"),
        "negatives": ("in_batch",),
        "redistribute": ("equal",),
        "seen_items": ("out", "scored"),
        "teacher_history": ("prefix",),
        "kd_include_positive": (True,),
        "deduplicate_columns": (True,),
        "student_temperature": (1.0,),
    }
    for name, values in known.items():
        found = getattr(config, name)
        if found not in values:
            return (
                f"--{name}: found {found}, the PyTorch step knows {' and '.join(map(str, values))}"
            )
    return ""


def distilled_loss(
    model: PackedSASRec,
    batch: Batch,
    task: Task,
    teachers: Sequence[TeacherTensors],
    weights: Tensor,
    threshold: float,
    config: DistillConfig,
) -> Tensor:
    """Cross-entropy and weighted distillation loss of a batch (eq. 6).

    Args:
        model: the student.
        batch: training instances of the task.
        task: data and split; its training histories are masked.
        teachers: all know every instance.
        weights: default weights [K], summing to 1.
        threshold: epsilon of the consistency rule.
        config: the distillation, one that `refusal` passes.
    """
    queries = model.queries(batch)
    own = model.loss(queries, batch)
    columns = in_batch_columns(task, batch, seen=config.seen_items)
    real = torch.from_numpy(batch.is_instance)
    valid = torch.from_numpy(columns.valid)[real]
    candidates = torch.from_numpy(columns.candidates)
    with torch.no_grad():
        scores = teacher_scores(teachers, batch, columns)
        target = joint_target(scores, valid, weights, threshold, config)
    logits = queries @ model.item_embedding(candidates).T
    log_p = functional.log_softmax(logits.masked_fill(~valid, torch.finfo().min), dim=-1)
    log_p = log_p.masked_fill(~valid, 0.0)
    log_q = target.clamp(min=torch.finfo().tiny).log()
    if config.kl == "forward":
        divergence = (target * (log_q - log_p)).sum(-1)
    else:
        divergence = (log_p.exp().masked_fill(~valid, 0.0) * (log_p - log_q)).sum(-1)
    return own + config.distill_weight * divergence.mean()


def teacher_scores(teachers: Sequence[TeacherTensors], batch: Batch, columns: Columns) -> Tensor:
    """The teachers' logits of the columns for the real instances [b, K, C]."""
    instances = torch.from_numpy(batch.instance_ids[batch.is_instance].astype(np.int64))
    candidates = torch.from_numpy(columns.candidates.astype(np.int64))
    return torch.stack(
        [
            t.scale * (t.instances[instances].float() @ t.items[candidates].float().T)
            for t in teachers
        ],
        dim=1,
    )


def joint_target(
    scores: Tensor, valid: Tensor, weights: Tensor, threshold: float, config: DistillConfig
) -> Tensor:
    """q of eq. 5 [b, C]: eq. 1–3 and a uniform share, 0 outside the valid columns."""
    soft = _zscore_softmax(scores, valid[:, None], config.temperature)
    differences = soft[:, :, None] - soft[:, None]
    disagreement = differences.square().sum(-1).sum(-1)
    joint = (_weights(disagreement, weights, threshold)[..., None] * soft).sum(1)
    uniform = valid / valid.sum(-1, keepdim=True)
    total = joint.sum(-1, keepdim=True)
    q = torch.where(total > 0, joint / total.clamp(min=_TINY), uniform)
    return (1 - config.smoothing) * q + config.smoothing * uniform


def _zscore_softmax(scores: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Eq. 1: standardised over the valid columns, then a softmax; 0 elsewhere."""
    count = valid.sum(-1, keepdim=True)
    mean = scores.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / count
    centred = (scores - mean).masked_fill(~valid, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    # Constant scores say nothing: all become 0, and the softmax is uniform.
    logits = centred / torch.where(deviation > _TINY, deviation, torch.inf) / temperature
    return logits.masked_fill(~valid, -torch.inf).softmax(-1)


def _weights(disagreement: Tensor, weights: Tensor, threshold: float) -> Tensor:
    """Eq. 2–3's rule [b, K]: who disagrees most, beyond the threshold, gives its weight away.

    Of equal disagreements the smaller weight goes, of equal weights the later teacher.
    """
    teachers = disagreement.shape[1]
    if teachers < 3:
        return weights.expand_as(disagreement)
    worst = disagreement.amax(1, keepdim=True)
    tied = torch.where(disagreement == worst, weights, torch.inf)
    chosen = tied == tied.amin(1, keepdim=True)
    last = teachers - 1 - chosen.flip(1).int().argmax(1)
    excluded = functional.one_hot(last, teachers).bool() & (worst > threshold)
    kept = weights.masked_fill(excluded, 0.0)
    freed = 1 - kept.sum(1, keepdim=True)
    return kept + freed * ~excluded / (~excluded).sum(1, keepdim=True)
