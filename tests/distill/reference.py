"""Eq. 1–6 of the paper in float64, one user at a time, with plain loops.

Typed by hand from the paper's section 3 and models.md 6, not from `prmkd_jax.distill`, whose
results the tests compare with these. Masked columns and missing teachers are left out before
anything is computed, so they can't influence a result.
"""

import math

import numpy as np

SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)


def softmax(values):
    """exp(v_j) / Σ_j' exp(v_j'), shifted by the largest so that nothing overflows."""
    exponentials = [math.exp(value - max(values)) for value in values]
    total = math.fsum(exponentials)
    return [exponential / total for exponential in exponentials]


def normalized_scores(scores, temperature, method):
    """Eq. 1 and the readings 6.2 of "normalize": one teacher's s̃ over one user's columns."""
    count = len(scores)
    if count == 0:
        return []
    if method == "zscore_softmax":
        mean = math.fsum(scores) / count
        deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / count)
        if deviation == 0:
            return [1 / count] * count
        return softmax([(score - mean) / deviation / temperature for score in scores])
    s = softmax([score / temperature for score in scores])
    if method == "sum":
        return s
    if method == "l2":
        norm = math.sqrt(math.fsum(value**2 for value in s))
        return [value / norm for value in s]
    assert method == "minmax"
    low, high = min(s), max(s)
    # Where all are alike no text says anything: 0, as (x - min) / 1 gives.
    return [(value - low) / (high - low if high > low else 1.0) for value in s]


def disagreement(rows):
    """Eq. 2: every teacher's squared distances to all the other teachers, summed."""
    return [
        math.fsum(
            (a - b) ** 2
            for other in range(len(rows))
            if other != k
            for a, b in zip(rows[k], rows[other], strict=True)
        )
        for k in range(len(rows))
    ]


def excluded_teacher(conf, weights, threshold):
    """Section 3.3's rule with the readings 6.5: the place of the teacher left out, or None."""
    if len(conf) <= 2 or not max(conf) > threshold:
        return None
    # The largest disagreement; of equal ones the smaller weight, then the larger place.
    return max(range(len(conf)), key=lambda k: (conf[k], -weights[k], k))


def adjusted_weights(weights, excluded, rule):
    """The weights ŵ of the teachers that know the instance."""
    total = math.fsum(weights)
    weights = [weight / total if total > 0 else 1 / len(weights) for weight in weights]
    if excluded is None:
        return weights
    freed = weights[excluded]
    rest = math.fsum(weight for k, weight in enumerate(weights) if k != excluded)
    changed = []
    for k, weight in enumerate(weights):
        if k == excluded:
            changed.append(0.0)
        elif rule == "equal" or rest == 0:
            changed.append(weight + freed / (len(weights) - 1))
        else:
            changed.append(weight + freed * weight / rest)
    return changed


def target_distribution(joint, smoothing):
    """The q of section 3.4 with the smoothing of 6.2."""
    count, total = len(joint), math.fsum(joint)
    q = [value / total if total > 0 else 1 / count for value in joint]
    return [(1 - smoothing) * value + smoothing / count for value in q]


def kl_divergence(p, q):
    """Σ p log p/q with 0 log 0 = 0."""
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def reverse_kl(p, q):
    """KL(p‖q), in which q counts as at least the smallest normal float32, so it is finite."""
    return kl_divergence(p, [max(b, SMALLEST_FLOAT32) for b in q])


def divergence(p, q, kl):
    """Eq. 5 for one user: reverse = KL(p‖q) as printed, p being the student's (6.8)."""
    if kl == "reverse":
        return reverse_kl(p, q)
    if kl == "forward":
        return kl_divergence(q, p)
    assert kl == "js"
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return kl_divergence(p, middle) / 2 + kl_divergence(q, middle) / 2


def divergence_gradient(p, q, kl):
    """dL/dz_j, z being the student's logits over its temperature: the closed forms of 6.8."""
    if kl == "forward":
        return [a - b for a, b in zip(p, q, strict=True)]
    if kl == "reverse":
        total, q = reverse_kl(p, q), [max(b, SMALLEST_FLOAT32) for b in q]
        return [a * (math.log(a / b) - total) for a, b in zip(p, q, strict=True)]
    assert kl == "js"
    # dL/dp_j = ½ log(p_j / m_j); then the softmax's Jacobian.
    slopes = [math.log(2 * a / (a + b)) / 2 for a, b in zip(p, q, strict=True)]
    mean = math.fsum(a * slope for a, slope in zip(p, slopes, strict=True))
    return [a * (slope - mean) for a, slope in zip(p, slopes, strict=True)]


def entropy(q):
    """−Σ q log q."""
    return -math.fsum(value * math.log(value) for value in q if value > 0)


def distill_user(student, teachers, available, valid, target_column, weights, threshold, config):
    """Eq. 1–5 for one user.

    Args:
        student: [C] the student's logits.
        teachers: [K][C] the teachers' scores.
        available: [K] whether a teacher knows the instance.
        valid: [C] whether a column counts.
        target_column: the row's own target.
        weights: [K] default weights.
        threshold: ε.
        config: a DistillConfig.

    Returns:
        A dictionary with `loss`; `gradient` [C] with respect to the student's logits;
        `disagreement`, `excluded` and `weight` [K]; `entropy` and `kl` [K] of the available
        teachers' own targets, nan for the others. What is left out is 0.
    """
    columns = [
        j for j in range(len(student))
        if valid[j] and (config.kd_include_positive or j != target_column)
    ]  # fmt: skip
    here = [k for k in range(len(teachers)) if available[k]]
    result = {
        "loss": 0.0,
        "gradient": np.zeros(len(student)),
        "disagreement": np.zeros(len(teachers)),
        "excluded": np.zeros(len(teachers)),
        "weight": np.zeros(len(teachers)),
        "entropy": np.full(len(teachers), np.nan),
        "kl": np.full(len(teachers), np.nan),
    }
    if not here:
        return result
    rows = [
        normalized_scores(
            [float(teachers[k][j]) for j in columns],
            config.temperature,
            config.score_normalization,
        )
        for k in here
    ]
    conf, known = disagreement(rows), [float(weights[k]) for k in here]
    excluded = excluded_teacher(conf, known, threshold)
    changed = adjusted_weights(known, excluded, config.redistribute)
    result["disagreement"][here], result["weight"][here] = conf, changed
    if excluded is not None:
        result["excluded"][here[excluded]] = 1
    if not columns:
        result["entropy"][here] = result["kl"][here] = 0
        return result
    joint = [
        math.fsum(changed[k] * rows[k][j] for k in range(len(here))) for j in range(len(columns))
    ]
    q = target_distribution(joint, config.smoothing)
    p = softmax([float(student[j]) / config.student_temperature for j in columns])
    result["loss"] = divergence(p, q, config.kl)
    slopes = divergence_gradient(p, q, config.kl)
    result["gradient"][columns] = [slope / config.student_temperature for slope in slopes]
    targets = [target_distribution(row, config.smoothing) for row in rows]
    result["entropy"][here] = [entropy(one) for one in targets]
    result["kl"][here] = [reverse_kl(p, one) for one in targets]
    return result


def cross_entropy(logits, target):
    """Eq. 4 for one user: −log softmax(logits)[target], over all items (6.7)."""
    largest = max(logits)
    return largest + math.log(math.fsum(math.exp(x - largest) for x in logits)) - logits[target]
