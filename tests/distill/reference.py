"""Eq. 1–6 of the paper in float64, one user at a time, with plain loops.

Typed by hand from the paper's section 3 and the README's table of readings, not from
`prmkd_jax.distill`, whose results the tests compare with these. Masked columns and missing
teachers are left out before anything is computed, so they can't influence a result.
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


def rank_scores(scores, temperature):
    """exp(−rank / T); a rank is the number of higher scores."""
    return [math.exp(-sum(other > own for other in scores) / temperature) for own in scores]


def top_columns(joint, number):
    """The highest columns; logarithms equal to four decimals are a tie of the earlier column."""
    order = sorted(range(len(joint)), key=lambda j: (-round(math.log(joint[j]), 4), j))
    return order[:number]


def softplus(x):
    """log(1 + exp x)."""
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    """1 / (1 + exp −x)."""
    return math.exp(min(x, 0)) / (1 + math.exp(-abs(x)))


def ranking_distillation(z, joint, top, position, discrepancy):
    """RD: Σ_r w_r · −log σ(s_r), and its gradient; w is no function of s for the gradient."""
    loss, slopes = 0.0, [0.0] * len(z)
    total = math.fsum(math.exp(-r / position) for r in range(1, top + 1))
    for place, j in enumerate(top_columns(joint, top)):
        above = sum(other > z[j] for other in z)
        weight = math.exp(-(place + 1) / position) / total
        weight *= math.tanh(max(discrepancy * (above - place), 0))
        loss += weight * softplus(-z[j])
        slopes[j] -= weight * sigmoid(-z[j])
    return loss, slopes


def relaxed_ranking(z, joint, top):
    """RRD: −Σ_k [s_k − log(Σ_{l≥k} exp s_l + Σ_others exp s)], and its gradient."""
    loss, slopes = 0.0, [0.0] * len(z)
    order = top_columns(joint, top)
    others = [j for j in range(len(z)) if j not in order]
    for place, j in enumerate(order):
        below = order[place:] + others
        shares = softmax([z[i] for i in below])
        loss -= math.log(shares[0])
        slopes[j] -= 1
        for i, share in zip(below, shares, strict=True):
            slopes[i] += share
    return loss, slopes


def unbiased_pairs(z, joint, group, groups, temperature):
    """UnKD: the mean over groups of −log σ(s_a − s_b) over pairs a before b, and its gradient."""
    loss, slopes = 0.0, [0.0] * len(z)
    for number in range(groups):
        columns = [j for j in range(len(z)) if group[j] == number]
        order = [columns[j] for j in top_columns([joint[j] for j in columns], len(columns))]
        pairs = {
            (a, b): math.exp(-first / temperature) * math.exp(-second / temperature)
            for first, a in enumerate(order)
            for second, b in enumerate(order)
            if first < second
        }
        total = math.fsum(pairs.values())
        for (a, b), chance in pairs.items():
            share = chance / total / groups
            loss += share * softplus(z[b] - z[a])
            slopes[a] -= share * sigmoid(z[b] - z[a])
            slopes[b] += share * sigmoid(z[b] - z[a])
    return loss, slopes


def label_target(q, own):
    """The own column's share p and equal shares of the rest, with the entropy of q."""
    if len(q) == 1:
        return [1.0]
    low, high = 1 / len(q), 1.0
    for _ in range(200):
        p = (low + high) / 2
        target = [p if j == own else (1 - p) / (len(q) - 1) for j in range(len(q))]
        low, high = (p, high) if entropy(target) > entropy(q) else (low, p)
    return target


def entropy(q):
    """−Σ q log q."""
    return -math.fsum(value * math.log(value) for value in q if value > 0)


ORDERS = ("rd", "rrd", "unkd")
RANKS = ("rank_ensemble", *ORDERS)
EXCLUDING = ("prmkd", "label_smoothing", "permuted")


def distill_user(
    student,
    teachers,
    available,
    valid,
    target_column,
    weights,
    threshold,
    config,
    group=None,
    scored=None,
):
    """Eq. 1–5 for one user, or what a rival or a control has in their place.

    Args:
        student: [C] the student's logits.
        teachers: [K][C] the teachers' scores.
        available: [K] whether a teacher knows the instance.
        valid: [C] whether a column counts.
        target_column: the row's own target.
        weights: [K] default weights.
        threshold: ε.
        config: a DistillConfig.
        group: [C] each column's group of popularity, for UnKD.
        scored: [C] whether the teachers' scores of a column count; None for all.

    Returns:
        A dictionary with `loss`; `gradient` [C] with respect to the student's logits;
        `disagreement`, `excluded` and `weight` [K]; `entropy` and `kl` [K] of the available
        teachers' own targets, nan for the others. What is left out is 0.
    """
    columns = [
        j for j in range(len(student))
        if valid[j] and (
            (config.kd_include_positive and config.method not in ORDERS) or j != target_column
        )
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
    rows, asked = [], [at for at, j in enumerate(columns) if scored is None or scored[j]]
    for k in here:
        scores = [float(teachers[k][columns[at]]) for at in asked]
        if config.method in RANKS:
            found = rank_scores(scores, config.rank_temperature)
        else:
            method = config.score_normalization
            found = normalized_scores(scores, config.temperature, method)
        given = dict(zip(asked, found, strict=True))
        rows.append([given.get(at, 0.0) for at in range(len(columns))])
    conf, known = disagreement(rows), [float(weights[k]) for k in here]
    excluded = excluded_teacher(conf, known, threshold) if config.method in EXCLUDING else None
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
    if config.method in ORDERS:
        z = [float(student[j]) for j in columns]
        if config.method == "rd":
            numbers = config.rd_top, config.rd_position, config.rd_discrepancy
            result["loss"], slopes = ranking_distillation(z, joint, *numbers)
        elif config.method == "rrd":
            result["loss"], slopes = relaxed_ranking(z, joint, config.rrd_top)
        else:
            numbers = config.unkd_groups, config.unkd_temperature
            result["loss"], slopes = unbiased_pairs(z, joint, [group[j] for j in columns], *numbers)
        result["gradient"][columns] = slopes
    else:
        if config.method == "label_smoothing":
            q = label_target(q, columns.index(target_column))
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
