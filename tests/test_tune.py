"""Tuning: exact search is perfect by definition, and the others are held against it."""

import numpy as np
import pytest

from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.retrieval.manifest import IndexKind
from selfrag.retrieval.spec import Metric
from selfrag.retrieval.store import PassageStore
from selfrag.retrieval.tune import PROBES, REFINES, Tuned, fastest, tune_index
from words import WordEncoder


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(600)]
    path = tmp_path_factory.mktemp("tune") / "index"
    passages = [Passage(id=str(n), title="", text=text) for n, text in enumerate(texts)]
    PassageStore.build(passages, WordEncoder(dim=32), path)
    return path


def test_every_kind_is_measured_against_exact_search(index):
    kinds = [IndexKind.BALANCED, IndexKind.HNSW]
    found = tune_index(index, WordEncoder(dim=32), Metric.DOT, kinds=kinds, n_queries=60)
    assert (found[0].kind, found[0].recall, found[0].index_mb) == (IndexKind.EXACT, 1.0, 0.0)
    assert [each.kind for each in found[1:]] == [
        kind for kind in kinds for _ in range(len(PROBES) * len(REFINES))
    ]
    assert all(each.n_rows == 600 and each.p50_ms > 0 for each in found)
    assert all(each.index_mb > 0 for each in found[1:])
    best = {kind: max(e.recall for e in found if e.kind is kind) for kind in kinds}
    assert min(best.values()) >= 0.95
    # Comparing more of the shortlist exactly finds no less.
    rq = {(e.n_probes, e.refine_factor): e.recall for e in found if e.kind is IndexKind.BALANCED}
    assert rq[64, 20] >= rq[64, 1]


def test_a_sample_is_as_large_as_asked_for(index):
    found = tune_index(index, WordEncoder(dim=32), Metric.DOT, kinds=[], n_queries=2, max_rows=200)
    assert 120 < found[0].n_rows < 280


def test_the_quickest_that_finds_enough_is_chosen():
    def way(recall: float, ms: float) -> Tuned:
        return Tuned(
            kind=IndexKind.SMALL, n_probes=8, refine_factor=1, recall=recall, p50_ms=ms,
            p95_ms=ms, index_mb=1.0, n_rows=10,
        )  # fmt: skip

    ways = [way(1.0, 9.0), way(0.96, 3.0), way(0.9, 1.0)]
    assert fastest(ways, recall=0.95) is ways[1]
    assert fastest(ways[2:], recall=0.95) is None


def test_too_few_passages_are_refused(tmp_path):
    PassageStore.build([Passage(id="1", title="", text="one")], WordEncoder(), tmp_path / "i")
    with pytest.raises(BadInput, match="holds 1 passage, expected at least 10"):
        tune_index(tmp_path / "i", WordEncoder(), Metric.DOT, kinds=[])
