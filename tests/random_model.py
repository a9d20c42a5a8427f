"""A language model without weights whose every completion is drawn by seed and prompt."""

import numpy as np

from selfrag.decode.answer import answer_questions
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.node import PathScore
from selfrag.decode.score import ScoreWeights
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Marker, Retrieve, Utility
from selfrag.retrieval.base import GivenPassages

END = "</s>"
WORDS = ("alpha", "beta", "gamma", "delta")
NEXT = (END, "[Retrieval]", "[No Retrieval]", "[Continue to Use Evidence]")
PASSAGES = [
    Passage(id=f"p{n}", title=f"T{n}", text=f"text {word} \u00e9", source="s", start=n, end=n + 9)
    for n, word in enumerate(WORDS)
]


class RandomModel:
    """Segments with every critique, with any ending; some passages are judged irrelevant."""

    def __init__(self, seed):
        self.seed = seed
        self.tokenizer = ScriptedTokenizer()
        self.fmt = PromptFormat.of(self.tokenizer)
        self.engine = ScriptedEngine(self.tokenizer, self.script)

    def script(self, prompt_ids):
        rng = np.random.default_rng([self.seed, *prompt_ids])
        part = lambda: float(rng.uniform(0.02, 0.98))  # noqa: E731
        last = prompt_ids[-1]
        reads = last == self.fmt.ids[Marker.PARAGRAPH_END]
        if not reads and last not in self.fmt.ids.retrieve:
            yes = part()
            return say({"[Retrieval]": yes, "[No Retrieval]": 1 - yes})
        relevance, support, utility = part(), part(), part()
        steps = []
        if reads:
            steps.append({"[Relevant]": relevance, "[Irrelevant]": 1 - relevance})
        steps.append({str(rng.choice(WORDS)): part()})
        if reads:
            full = {"[Fully supported]": support, "[No support / Contradictory]": 1 - support}
            steps.append(full)
        steps.append({"[Utility:5]": utility, "[Utility:1]": 1 - utility})
        return say(*steps, str(rng.choice(NEXT)))

    def answer(self, questions, passages=PASSAGES[:2], retriever=None, **options):
        """Answers and events of one search; passages that are given have no scores."""
        events = []
        answers = answer_questions(
            list(questions),
            engine=self.engine,
            retriever=retriever or GivenPassages(passages),
            config=SearchConfig(**options),
            on_event=events.append,
        )
        return answers, events


class WildModel:
    """Leaves groups out, judges badly, ends on a token that the gate does not favour."""

    def __init__(self, seed, max_context=4096):
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


class RandomRetriever:
    """Ranks passages by the query; finds few or none for some."""

    def search(self, queries, top_k):
        return [self._search(query)[:top_k] for query in queries]

    def _search(self, query):
        rng = np.random.default_rng([len(query), *query.encode()])
        order = rng.permutation(len(PASSAGES))[: int(rng.choice([0, 1, 2, 3, 4, 4, 4, 4]))]
        return [Hit(passage=PASSAGES[n], score=1 / k, rank=k) for k, n in enumerate(order, 1)]


def drawn_config(rng, *, budget_of_time=True):
    """Any settings of a search."""

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
        weights=pick(
            ScoreWeights(),
            ScoreWeights(relevance=0, support=2, utility=3, sequence=0, retrieval=1.5),
        ),
        path_score=pick(*PathScore),
        query=pick(*QueryPolicy),
        n_evidence=pick(1, 1, 2, 3),
        with_no_retrieval=pick(False, False, True),
        inline_passages=pick(True, True, False),
        repeat=pick(False, True),
        drop_unsupported=pick(False, False, True),
        prune_relevance=pick(None, 0.0, 0.4, 1.0),
        max_seconds=pick(None, None, None, None, None, 1.5, 3.0) if budget_of_time else None,
        max_tokens=pick(None, None, None, None, 1, 9, 30, 80, 150),
        max_passages=pick(None, None, 1, 3, 6),
        min_support=pick(None, None, 0.3, 0.9),
        choices=pick((), (), ("alpha", "beta"), ("one", "two"), ("one two", "one three")),
    )
