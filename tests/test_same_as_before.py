"""For one commit: the search as steps answers and tells what the search before it did."""

import dataclasses

import numpy as np
import pytest

import old_search
from random_model import PASSAGES, WORDS
from selfrag.decode.answer import answer_to_json, collect_answers
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.drive import drive
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.node import PathScore
from selfrag.decode.score import ScoreWeights
from selfrag.decode.search import Model, steps
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Marker, Retrieve, Utility

NEXT = ("</s>", "[Retrieval]", "[No Retrieval]", "[Continue to Use Evidence]")


class Wild:
    """Leaves groups out, judges badly, ends on a token that the gate does not favour."""

    def __init__(self, seed, max_context):
        self.seed = seed
        self.tokenizer = ScriptedTokenizer()
        self.fmt = PromptFormat.of(self.tokenizer)
        self.engine = ScriptedEngine(self.tokenizer, self.script, max_context=max_context)
        for text in ("Q one two three four", *WORDS, *(f"{p.title} {p.text}" for p in PASSAGES)):
            self.fmt.instruction(text)

    def script(self, prompt_ids):
        rng = np.random.default_rng([self.seed, *prompt_ids])
        part = lambda: float(rng.uniform(0.02, 0.98))  # noqa: E731
        last = prompt_ids[-1]
        reads = last == self.fmt.ids[Marker.PARAGRAPH_END]
        if not reads and last not in self.fmt.ids.retrieve:
            yes = part() * 0.5
            words = {w: 0.1 * part() for w in WORDS}
            return say({"[Retrieval]": yes, "[No Retrieval]": 0.6 - yes, **words})
        written = []
        if reads and rng.random() < 0.8:
            written.append({"[Relevant]": part(), "[Irrelevant]": part()})
        for _ in range(int(rng.integers(1, 3))):
            written.append({str(rng.choice(WORDS)): part()})
        if reads and rng.random() < 0.7:
            written.append(
                {
                    "[Fully supported]": part(),
                    "[Partially supported]": part(),
                    "[No support / Contradictory]": part(),
                }
            )
        if rng.random() < 0.7:
            written.append({str(token): part() for token in Utility})
        ending = {str(token): part() for token in Retrieve}
        return say(*written, ending if rng.random() < 0.8 else str(rng.choice(NEXT)), "</s>")


class Found:
    """Ranks passages by the query, finds nothing for some."""

    def search(self, queries, top_k):
        return [self._search(query)[:top_k] for query in queries]

    def _search(self, query):
        rng = np.random.default_rng([len(query), *query.encode()])
        order = rng.permutation(len(PASSAGES))[: int(rng.choice([0, 1, 2, 3, 4, 4, 4, 4]))]
        return [Hit(passage=PASSAGES[n], score=1 / k, rank=k) for k, n in enumerate(order, 1)]


def drawn_config(rng):
    def pick(*values):
        return values[int(rng.integers(len(values)))]

    return SearchConfig(
        mode=pick(*RetrievalMode, RetrievalMode.ADAPTIVE),
        gate=pick(*GateKind),
        threshold=pick(None, 0.0, 0.0, 0.1, 0.2, 0.5),
        top_k=pick(1, 2, 3),
        beam_width=pick(1, 2, 3, 9),
        max_segments=pick(1, 2, 3, 4),
        max_new_tokens=pick(2, 6, 20, 20),
        max_passage_tokens=pick(3, 200),
        weights=pick(ScoreWeights(), ScoreWeights(relevance=0, support=2, utility=3, sequence=0)),
        path_score=pick(*PathScore),
        query=pick(*QueryPolicy),
        n_evidence=pick(1, 1, 2, 3),
        with_no_retrieval=pick(False, False, True),
        inline_passages=pick(True, True, False),
        repeat=pick(False, True),
        drop_unsupported=pick(False, False, True),
        prune_relevance=pick(None, 0.0, 0.4, 1.0),
        max_seconds=pick(None, None, None, None, None, 1.5, 3.0),
        max_tokens=pick(None, None, None, None, 1, 9, 30, 80, 150),
        max_passages=pick(None, None, 1, 3, 6),
        min_support=pick(None, None, 0.3, 0.9),
        choices=pick((), (), ("alpha", "beta"), ("one", "two"), ("one two", "one three")),
    )


def facts(value, serials):
    """Any value of an event as plain data; nodes by object, told in full where first met."""
    if type(value).__name__ == "Node":
        if id(value) in serials:
            return serials[id(value)]
        parent = facts(value.parent, serials)
        serials[id(value)] = len(serials)
        names = ("lead_ids", "hits", "segment", "wants", "path_score")
        told = [facts(getattr(value, name), serials) for name in names]
        return [serials[id(value)], parent, *told]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [type(value).__name__, *(facts(getattr(value, n), serials) for n in names)]
    if isinstance(value, np.ndarray):
        return ["array", value.tolist()]
    if isinstance(value, tuple | list):
        return [type(value).__name__, [facts(each, serials) for each in value]]
    return repr(value)


def outcome(questions, events, config):
    answers = collect_answers(questions, events, closed_sets=[config.choices] * len(questions))
    told = []
    for number in range(len(questions)):
        serials = {}
        told.append([facts(e, serials) for e in events if e.question == number])
    return [answer_to_json(answer) for answer in answers], told


@pytest.mark.parametrize("part", range(20))
def test_same_answers_and_events(part):
    n_done = n_calls = n_calls_before = 0
    for run in range(100):
        rng = np.random.default_rng([part, run])
        config = drawn_config(rng)
        n_questions = 1 if config.max_seconds else int(rng.integers(1, 5))
        questions = [f"Q {word}" for word in ("one", "two", "three", "four")[:n_questions]]
        turn = Turn(question="one two", answer="alpha beta [Relevant]" * int(rng.integers(1, 20)))
        histories = [[turn] * int(rng.integers(0, 4)) for _ in questions]
        seed = int(rng.integers(2**32))
        read = config.n_evidence * (config.max_passage_tokens + 2) + 1
        n_context = config.max_new_tokens + read + int(rng.choice([15, 40, 60, 100, 400, 400]))
        before, now = Wild(seed, n_context), Wild(seed, n_context)
        try:
            expected = list(
                old_search.search(
                    questions,
                    engine=before.engine,
                    retriever=Found(),
                    config=config,
                    histories=histories,
                    clock=lambda calls=before.engine.calls: float(len(calls)),
                )
            )
        except old_search.BadInput:
            continue
        asked = [
            steps(
                question,
                model=Model.of(now.engine),
                config=config,
                history=history,
                number=number,
                clock=lambda calls=now.engine.calls: float(len(calls)),
            )
            for number, (question, history) in enumerate(zip(questions, histories, strict=True))
        ]
        told = list(drive(asked, now.engine, Found()))
        assert outcome(questions, told, config) == outcome(questions, expected, config)
        n_done += len(questions)
        n_calls += len(now.engine.calls)
        n_calls_before += len(before.engine.calls)
    assert n_done >= 50 and n_calls <= n_calls_before
