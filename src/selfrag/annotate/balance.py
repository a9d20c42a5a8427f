"""Labels freed of a teacher's liking for some of them: batch calibration (arXiv 2309.17249).

A small teacher gives one label more probability than another whatever it is shown. Over rows whose
labels are about equally frequent, its mean probabilities show by how much. All functions are pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from selfrag.annotate.judgement import Group, Judgement, label_of

# group -> label -> mean probability over the rows, sum 1
LabelShares = Mapping[Group, Mapping[str, float]]


def label_shares(judgements: Iterable[Judgement]) -> dict[Group, dict[str, float]]:
    """The mean probability of every label, of groups that were answered with probabilities."""
    sums: dict[Group, dict[str, float]] = {}
    counts: dict[Group, int] = {}
    for judgement in judgements:
        group = judgement.case.group
        for label, prob in judgement.probs:
            by_label = sums.setdefault(group, {})
            by_label[label] = by_label.get(label, 0.0) + prob
        counts[group] = counts.get(group, 0) + bool(judgement.probs)
    return {
        group: {label: total / counts[group] for label, total in by_label.items()}
        for group, by_label in sums.items()
    }


def rebalance(judgement: Judgement, shares: LabelShares) -> Judgement:
    """The judgement with its probabilities divided by `shares`, sum 1, and the likeliest label."""
    by_label = shares.get(judgement.case.group, {})
    odds = [
        (label, prob / by_label[label]) for label, prob in judgement.probs if by_label.get(label)
    ]
    total = sum(value for _, value in odds)
    if not total:
        return judgement
    probs = tuple((label, round(value / total, 6)) for label, value in odds)
    best = max(probs, key=lambda pair: pair[1])[0]
    return replace(judgement, probs=probs, label=label_of(judgement.case.group, best))
