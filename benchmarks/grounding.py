"""How well `check` tells what a passage supports, against words, vectors and a larger model.

    python benchmarks/grounding.py --data DIR --limit 150 --teacher-limit 40 --json

Pairs that people have labelled and that no training of ours sees; supported means in full. Per set
the area under the ROC curve and balanced accuracy, with 95% intervals (bootstrap over sources).
Nothing is fitted on the rows that it is measured on: five folds by source, for the constants of
`check` (`check_unseen_set`: fitted on the other sets alone) and for the bound of every system.
SciFact is in no fit, as its licence forbids commercial use; SelQA asks whether a sentence answers a
question, where `check` is its relevance alone. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "default_weights"))
from checking import (
    SETS,
    ScoredPair,
    add_model_arguments,
    best_threshold,
    fit_grounding,
    measured_pairs,
    opened,
    say,
    score_pairs,
    told,
)
from pairs import Pair, Part, read_pairs
from selfrag.decode.grounding import FEATURES, Grounding, contradiction
from selfrag.decode.wording import compare
from selfrag.evaluate.attribution import Claim, document
from selfrag.open.indexes import load_passage_encoder
from selfrag.open.systems import AskedModel, JudgeKind, open_judge
from selfrag.passage import Passage
from selfrag.progress import SILENT
from selfrag.reflection import Relevance, Support
from sets import read_set

FloatArray = NDArray[np.float64]

N_FOLDS, N_RESAMPLES = 5, 1000
SCIFACT, SELQA = "scifact", "selqa"


def scifact_pairs(data: Path, limit: int) -> list[Pair]:
    """Claims with an abstract that supports or contradicts them, or says nothing of them."""
    corpus = {row["doc_id"]: row for row in read_set(data, "scifact/corpus")}
    found: list[Pair] = []
    for name in ("scifact/claims_validation_part", "scifact/claims_train"):
        for row in read_set(data, name):
            said = row["evidence_label"]
            abstract = corpus[row["evidence_doc_id"] if said else row["cited_doc_ids"][0]]
            found.append(
                Pair(
                    dataset=SCIFACT,
                    source=row["claim"],
                    passage=Passage(title=abstract["title"], text=" ".join(abstract["abstract"])),
                    claim=row["claim"],
                    support=Support.FULL if said == "SUPPORT" else Support.NONE,
                )
            )
    pairs = list(dict.fromkeys(found))
    order = np.random.default_rng(0).permutation(len(pairs))[:limit]
    return [pairs[int(i)] for i in order]


def selqa_pairs(data: Path, limit: int) -> list[Pair]:
    """Questions with a sentence that answers them, or one of the same section that does not."""
    pairs = read_pairs(data, "selqa/dev", Part.MEASURE)
    order = np.random.default_rng(0).permutation(len(pairs))[:limit]
    return [pairs[int(i)] for i in order]


def labels_of(scored: Sequence[ScoredPair]) -> NDArray[np.bool_]:
    """Whether each is supported; of a question whether the passage answers it."""
    return np.array(
        [
            each.is_supported if each.pair.claim else each.pair.relevance is Relevance.RELEVANT
            for each in scored
        ]
    )


def fold_of(pair: Pair) -> int:
    """Rows of one source fall into one fold."""
    return zlib.crc32(f"fold {pair.source.lower()}".encode()) % N_FOLDS


def probabilities(grounding: Grounding, scored: Sequence[ScoredPair]) -> FloatArray:
    """What the constants make of each pair."""
    weights = np.array([grounding.weights.get(name, 0.0) for name in FEATURES])
    x = np.stack([each.features for each in scored])
    return np.asarray(1 / (1 + np.exp(-(x @ weights + grounding.bias))))


def cross_fitted(scored: Sequence[ScoredPair], *, by_set: bool) -> FloatArray:
    """The probability of each pair by constants that were fitted without its source, or its set."""
    groups = [each.name if by_set else fold_of(each.pair) for each in scored]
    probs = np.zeros(len(scored))
    for group in dict.fromkeys(groups):
        fitted = [
            each
            for each, own in zip(scored, groups, strict=True)
            if own != group and each.name in SETS
        ]
        rows = [row for row, own in enumerate(groups) if own == group]
        probs[rows] = probabilities(fit_grounding(fitted), [scored[row] for row in rows])
    return probs


def cosines(scored: Sequence[ScoredPair]) -> FloatArray:
    """Claim against passage, by the default encoder."""
    encoder = load_passage_encoder(SILENT)
    claims = encoder.encode([each.pair.claim or each.pair.question for each in scored])
    passages = encoder.encode([document(each.pair.passage) for each in scored])
    norms = np.linalg.norm(claims, axis=1) * np.linalg.norm(passages, axis=1)
    return np.asarray((claims * passages).sum(axis=1) / norms, dtype=float)


def taught(scored: Sequence[ScoredPair]) -> FloatArray:
    """The share of Yes where the local teacher is asked; text cut to 2,000 characters."""
    claims = [
        Claim(
            question=each.pair.question,
            premise=document(each.pair.passage)[:2000],
            hypothesis=each.pair.claim
            or f"This is the answer to the question: {each.pair.question}",
        )
        for each in scored
    ]
    found: list[float] = []
    with open_judge(JudgeKind.LOCAL, AskedModel(), SILENT) as judge:
        for start in range(0, len(claims), 20):
            found += judge.judge(claims[start : start + 20])
            say(f"teacher: {len(found)} of {len(claims)}")
    return np.array(found)


def auc(scores: FloatArray, y: NDArray[np.bool_]) -> float:
    """How often a positive outranks a negative; ties count half. NaN without both."""
    n = int(y.sum())
    if n in (0, len(y)):
        return float("nan")
    return float((rankdata(scores)[y].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))


def balanced(said: NDArray[np.bool_], y: NDArray[np.bool_]) -> float:
    """The mean of the shares of right answers in both classes; NaN without both."""
    if y.all() or not y.any():
        return float("nan")
    return float((said[y].mean() + (~said[~y]).mean()) / 2)


def decisions(
    scores: FloatArray, y: NDArray[np.bool_], folds: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Yes or no by a bound that was chosen on the other folds of the same set."""
    said = np.zeros(len(y), dtype=bool)
    for fold in range(N_FOLDS):
        other = folds != fold
        bound = best_threshold(scores[other], y[other], np.ones(int(other.sum())))
        said[~other] = scores[~other] >= bound
    return said


def replicates(
    scores: FloatArray, y: NDArray[np.bool_], pairs: Sequence[Pair]
) -> tuple[FloatArray, FloatArray]:
    """AUC and balanced accuracy, each (1 + n_resamples,): of all rows, then of drawn sources."""
    folds = np.array([fold_of(pair) for pair in pairs])
    said = decisions(scores, y, folds)
    rows_of: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows_of.setdefault(pair.source, []).append(row)
    groups = [np.array(rows) for rows in rows_of.values()]
    rng = np.random.default_rng(0)  # the same draws for every system: differences are paired
    drawn = [np.arange(len(y))]
    for _ in range(N_RESAMPLES):
        picks = rng.integers(len(groups), size=len(groups))
        drawn.append(np.concatenate([groups[int(pick)] for pick in picks]))
    return (
        np.array([auc(scores[rows], y[rows]) for rows in drawn]),
        np.array([balanced(said[rows], y[rows]) for rows in drawn]),
    )


def interval(values: FloatArray) -> list[float]:
    """[estimate, low, high], rounded."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return [round(float(v), 3) for v in (values[0], low, high)]


def measure(
    systems: Mapping[str, FloatArray], scored: Sequence[ScoredPair]
) -> dict[str, dict[str, Any]]:
    """Per system and set `auc` and `balanced_accuracy`, and the means over the sets of claims.

    `against_overlap`: the paired difference of the means. NaN scores are pairs not judged.
    """
    y = labels_of(scored)
    names = np.array([each.name for each in scored])
    result: dict[str, dict[str, Any]] = {}
    means: dict[str, tuple[FloatArray, FloatArray]] = {}
    for system, scores in systems.items():
        result[system] = {}
        both = []
        for name in dict.fromkeys(names):
            rows = np.flatnonzero((names == name) & ~np.isnan(scores))
            if not rows.size:
                continue
            found = replicates(scores[rows], y[rows], [scored[int(row)].pair for row in rows])
            result[system][name] = {
                "n": int(rows.size),
                "auc": interval(found[0]),
                "balanced_accuracy": interval(found[1]),
            }
            if name != SELQA:
                both.append(found)
        means[system] = np.mean([b[0] for b in both], axis=0), np.mean([b[1] for b in both], axis=0)
        result[system]["mean"] = {
            "auc": interval(means[system][0]),
            "balanced_accuracy": interval(means[system][1]),
        }
        if system.startswith("check"):
            result[system]["against_overlap"] = {
                name: interval(means[system][at] - means["overlap"][at])
                for at, name in enumerate(("auc", "balanced_accuracy"))
            }
    return result


def contradictions(data: Path) -> dict[str, list[int]]:
    """How often the rule of `contradicted` speaks, of how many: by what people said of the pair."""
    said: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, pairs in measured_pairs(data, 1 << 30).items():
        for pair in pairs if name != "begin" else ():
            kind = str(pair.support)
            if pair.support is Support.NONE:
                is_refuted = name != "wice" and pair.relevance is Relevance.RELEVANT
                kind = "refuted" if is_refuted else "not enough information"
            wording = compare(pair.claim, pair.passage.title, pair.passage.text)
            total[kind] += 1
            said[kind] += bool(contradiction(wording))
    return {kind: [said[kind], n] for kind, n in total.items()}


def main() -> None:
    """Prints the figures of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--teacher-limit", type=int, default=0, help="pairs a set for the teacher")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    started = time.perf_counter()
    drawn = measured_pairs(options.data, options.limit)
    drawn[SCIFACT] = scifact_pairs(options.data, options.limit)
    drawn[SELQA] = selqa_pairs(options.data, options.limit)
    with opened(options.model, options.adapter, options.precision) as (engine, _):
        scored = score_pairs(drawn, engine, told)
    relevance = np.array([each.relevance for each in scored])
    is_question = np.array([not each.pair.claim for each in scored])
    systems = {
        "overlap": np.array([each.features[FEATURES.index("in_passage")] for each in scored]),
        "cosine": cosines(scored),
        "isrel": relevance,
        "issup": np.where(is_question, np.nan, [each.support for each in scored]),
        "check": np.where(is_question, relevance, cross_fitted(scored, by_set=False)),
        "check_unseen_set": np.where(is_question, np.nan, cross_fitted(scored, by_set=True)),
    }
    if options.teacher_limit:
        firsts: Counter[str] = Counter()
        asked = []
        for row, each in enumerate(scored):
            firsts[each.name] += 1
            asked += [row] if firsts[each.name] <= options.teacher_limit else []
        teacher = np.full(len(scored), np.nan)
        teacher[asked] = taught([scored[row] for row in asked])
        systems["teacher"] = teacher
    measured = measure(systems, scored)
    result = {
        "model": str(options.adapter or options.model),
        "systems": measured,
        "contradicted": contradictions(options.data),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if options.json:
        print(json.dumps(result))
        return
    for system, sets in measured.items():
        for name, found in sets.items():
            print(f"{system:>18} {name:>16} {found}")
    print(result["contradicted"])


if __name__ == "__main__":
    main()
