"""The constants by which a model checks claims, from pairs that people have labelled.

    python recipes/default_weights/checking.py --data DATA --out grounding.json [--adapter FOLDER]

Reads only pairs that training never sees. The logistic model weighs every set alike; what speaks
for support may not count against it, nor the other way round.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pairs import Pair, Part, read_pairs
from selfrag import assets
from selfrag.decode.check import pair_logprobs, pair_requests, statement_of
from selfrag.decode.config import SearchConfig
from selfrag.decode.grounding import FEATURES, Grounding, features
from selfrag.decode.score import relevance_score, support_score
from selfrag.decode.search import Model
from selfrag.decode.wording import compare
from selfrag.engine.adapter import prepared_name
from selfrag.engine.base import Engine, Precision
from selfrag.engine.prepare import prepare_model
from selfrag.errors import SelfRAGError
from selfrag.files import replacing
from selfrag.open.calibrations import weights_name
from selfrag.open.engines import DEFAULT, ModelOptions, base_gguf, open_engine
from selfrag.reflection import Support
from selfrag.serial import json_text

FloatArray = NDArray[np.float64]

SETS = {
    "wice": ("wice/claim_dev_oracle_chunks",),
    "factcheck_bench": ("factcheck_bench/claim_evidence_stance",),
    "begin": ("begin/wow_dev", "begin/topicalchat_dev", "begin/cmu_dog_dev", "begin/wow_test_part"),
    "fever": ("fever/symmetric_dev", "fever/symmetric_test_part"),
    "fool_me_twice": ("fool_me_twice/dev", "fool_me_twice/test_part"),
}
_PAIRS_A_CALL = 32
_L2 = 1.0  # strength of the pull to 0, of standardised features
# Whether more of a feature may only speak for support (1) or against it (-1).
_SIGNS = {name: -1 if name.startswith(("new_", "turned")) else 1 for name in FEATURES}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredPair:
    """A pair of one set with its features, and the two scores of the model, in [0, 1]."""

    name: str
    pair: Pair
    features: FloatArray
    relevance: float
    support: float

    @property
    def is_supported(self) -> bool:
        """Whether people said that the passage supports all of the claim."""
        return self.pair.support is Support.FULL


def measured_pairs(data: Path, limit: int) -> dict[str, list[Pair]]:
    """At most `limit` pairs of each set, drawn once and for all; fewer are the first of more."""
    rng = np.random.default_rng(0)
    drawn = {}
    for name, files in SETS.items():
        pairs = [pair for file in files for pair in read_pairs(data, file, Part.MEASURE)]
        drawn[name] = [pairs[int(i)] for i in rng.permutation(len(pairs))[:limit]]
    return drawn


def score_pairs(
    drawn: Mapping[str, Sequence[Pair]],
    engine: Engine,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScoredPair]:
    """Every pair as `check` sees it: the claim as one sentence, the passage cut to 512 tokens."""
    model, config = Model.of(engine), SearchConfig()
    named = [(name, pair) for name, pairs in drawn.items() for pair in pairs]
    scored: list[ScoredPair] = []
    for start in range(0, len(named), _PAIRS_A_CALL):
        part = named[start : start + _PAIRS_A_CALL]
        asked = []
        for _, pair in part:
            said = pair.claim or pair.question
            ((_, both),) = pair_requests(model, said, pair.question, [pair.passage], config)
            asked.append(both)
        done = iter(engine.generate([request for both in asked for request in both]))
        for name, pair in part:
            relevance, support = pair_logprobs(next(done), next(done))
            statement = statement_of(pair.claim or pair.question, pair.question)
            wording = compare(statement, pair.passage.title, pair.passage.text)
            scored.append(
                ScoredPair(
                    name=name,
                    pair=pair,
                    features=features(relevance, support, wording),
                    relevance=relevance_score(relevance),
                    support=support_score(support),
                )
            )
        on_progress(len(scored), len(named))
    return scored


def fit_grounding(scored: Sequence[ScoredPair]) -> Grounding:
    """The constants that fit the labels best, every set weighing the same."""
    x = np.stack([each.features for each in scored])
    y = np.array([each.is_supported for each in scored])
    names = [each.name for each in scored]
    weights = np.array([1 / names.count(name) for name in names])
    weights *= len(weights) / weights.sum()
    coefficients, bias = _logistic(x, y, weights)
    probs = 1 / (1 + np.exp(-(x @ coefficients + bias)))
    lines = np.array([each.name in ("wice", "factcheck_bench") for each in scored])
    in_part = np.array([each.pair.support is not Support.NONE for each in scored])
    supported = Grounding().supported  # as likely as not
    partial = best_threshold(probs[lines], in_part[lines], weights[lines]) if lines.any() else 0.0
    return Grounding(
        weights={
            name: round(float(w), 4) for name, w in zip(FEATURES, coefficients, strict=True) if w
        },
        bias=round(bias, 4),
        partial=round(min(partial, supported), 3),
    )


def _logistic(x: FloatArray, y: NDArray[np.bool_], weights: FloatArray) -> tuple[FloatArray, float]:
    """Coefficients (n_features,) and bias, under the signs of the features."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    z = (x - mean) / spread
    signs = 2.0 * y - 1

    def loss(p: FloatArray) -> tuple[float, FloatArray]:
        margins = z @ p[:-1] + p[-1]
        errors = weights * (1 / (1 + np.exp(-margins)) - y)
        value = weights @ np.logaddexp(0, -signs * margins) + _L2 / 2 * p[:-1] @ p[:-1]
        return float(value), np.append(z.T @ errors + _L2 * p[:-1], errors.sum())

    bounds = [(0, None) if _SIGNS[name] > 0 else (None, 0) for name in FEATURES]
    start = np.zeros(x.shape[1] + 1)
    found = minimize(loss, start, jac=True, bounds=[*bounds, (None, None)], method="L-BFGS-B").x
    coefficients = found[:-1] / spread
    return coefficients, float(found[-1] - coefficients @ mean)


def best_threshold(scores: FloatArray, y: NDArray[np.bool_], weights: FloatArray) -> float:
    """The bound from which on a yes gives the best balanced accuracy; the middle of a gap."""
    order = np.argsort(scores)
    scores, y, weights = scores[order], y[order], weights[order]
    # Rows under the bound: negatives there are right, positives wrong.
    right = np.cumsum(weights * ~y) / max((weights * ~y).sum(), 1e-12)
    wrong = np.cumsum(weights * y) / max((weights * y).sum(), 1e-12)
    gaps = np.append(np.diff(scores) > 0, False)
    gain = np.where(gaps, right - wrong, -1.0)
    at = int(gain.argmax())
    if gain[at] <= 0:
        return float(scores[-1])
    return float((scores[at] + scores[at + 1]) / 2)


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


@contextmanager
def opened(
    model: str, adapter: Path | None, precision: Precision = Precision.AUTO
) -> Iterator[tuple[Engine, str]]:
    """A model by its name, or an adapter merged into the packaged base, and what constants call it.

    An adapter is called as it will be where it is the default of the package.
    """
    options = ModelOptions(model=model, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        name = weights_name(options)
        if adapter is not None:
            out = Path(folder) / "model"
            prepare_model(gguf=base_gguf(), adapter=adapter, out=out)
            base = assets.named("base-model").files[0].sha256
            name = f"{ModelOptions().name}/{prepared_name(base, adapter)}"
            options = replace(options, model=str(out))
        engine = open_engine(options, max_batch=32)
        try:
            yield engine, name
        finally:
            engine.close()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--limit`, `--model`, `--adapter` and `--precision`, as the benchmark has too."""
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--limit", type=int, default=300, help="pairs of each set at most")
    parser.add_argument("--model", default=DEFAULT, help="as in `selfrag ask`")
    parser.add_argument("--adapter", type=Path, help="folder of an adapter for the packaged base")
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)


def told(done: int, total: int) -> None:
    """How far scoring is."""
    if done == total or done % (8 * _PAIRS_A_CALL) == 0:
        say(f"scored {done} of {total} pairs")


def main() -> None:
    """Writes the constants of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    try:
        drawn = measured_pairs(options.data, options.limit)
        with opened(options.model, options.adapter, options.precision) as (engine, name):
            grounding = replace(fit_grounding(score_pairs(drawn, engine, told)), model=name)
        with replacing(options.out) as path:
            path.write_text(json_text(grounding, indent=1) + "\n", encoding="utf-8")
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"wrote {options.out}\n")


if __name__ == "__main__":
    main()
