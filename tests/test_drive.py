"""Many searches answered together: rounds, joining, cancelling, and what each is asked."""

import numpy as np
import pytest

from random_model import PASSAGES, RandomModel, RandomRetriever, WildModel, drawn_config
from selfrag.decode.answer import answer_to_json, collect_answers
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import Batch, drive, run
from selfrag.decode.events import FinishEvent, GateEvent, RetrievalEvent
from selfrag.decode.search import Generate, Lookup, Model, steps
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput
from selfrag.prompt import Turn
from selfrag.retrieval.base import GivenPassages

QUESTIONS = ["Q one", "Q two", "Q three", "Q four"]


def facts(events):
    """What events tell, in plain values; nodes by their id and text."""
    told = []
    for event in events:
        nodes = [getattr(event, name, None) for name in ("node", "parent", "best")]
        nodes += getattr(event, "beam", ())
        about = [(node.id, node.text, node.wants, node.path_score) for node in nodes if node]
        hits = [hit.passage.id for hit in getattr(event, "hits", ())]
        words = [getattr(event, name, None) for name in ("query", "rank", "reason", "stopped_by")]
        told.append((type(event).__name__, about, hits, words))
    return told


def outcome(model, configs, questions, histories):
    """Answers and events of each question, searched together."""
    searches = [
        steps(q, model=Model.of(model.engine), config=config, history=history, number=n)
        for n, (q, config, history) in enumerate(zip(questions, configs, histories, strict=True))
    ]
    events = list(drive(searches, model.engine, RandomRetriever()))
    answers = collect_answers(questions, events, configs=configs)
    told = [[e for e in events if e.question == n] for n in range(len(questions))]
    return [(answer_to_json(a), facts(t)) for a, t in zip(answers, told, strict=True)]


@pytest.mark.parametrize("part", range(5))
def test_a_question_in_a_batch_is_answered_as_alone_each_with_its_own_settings(part):
    n_asked = 0
    for number in range(20):
        rng = np.random.default_rng([part, number])
        configs = [drawn_config(rng, budget_of_time=False) for _ in QUESTIONS]
        turn = Turn(question="one two", answer="alpha beta")
        histories = [[turn] * int(rng.integers(0, 3)) for _ in QUESTIONS]
        seed = int(rng.integers(2**32))
        together = outcome(WildModel(seed), configs, QUESTIONS, histories)
        for n, found in enumerate(together):
            alone = outcome(WildModel(seed), [configs[n]], [QUESTIONS[n]], [histories[n]])
            assert found == alone[0]
            n_asked += 1
    assert n_asked == 80


class Asked:
    """A retriever that remembers what it was asked; it is not prefix-stable."""

    def __init__(self):
        self.calls = []

    def search(self, queries, top_k):
        self.calls.append((list(queries), top_k))
        hits = GivenPassages(PASSAGES[top_k % 2 :]).hits
        return [list(hits[:top_k]) for _ in queries]


def test_every_question_is_looked_up_with_the_number_of_hits_it_would_ask_for_alone():
    model, retriever = RandomModel(1), Asked()
    searches = [
        steps(
            q,
            model=Model.of(model.engine),
            config=SearchConfig(threshold=0.0, top_k=k, max_segments=1),
            number=n,
        )
        for n, (q, k) in enumerate([("Q one", 1), ("Q two", 2), ("Q three", 1)])
    ]
    events = list(drive(searches, model.engine, retriever))
    assert retriever.calls == [(["Q one", "Q three"], 1), (["Q two"], 2)]
    read = {e.question: [h.passage.id for h in e.hits] for e in events if hasattr(e, "hits")}
    assert read == {0: ["p1"], 1: ["p0", "p1"], 2: ["p1"]}


def test_a_query_of_its_own_is_searched_and_passages_of_its_own_are_read_unsearched():
    model, retriever = RandomModel(1), Asked()
    config = SearchConfig(threshold=0.0, top_k=2, max_segments=1)
    facts_of = Model.of(model.engine)
    own = GivenPassages(PASSAGES[2:]).hits
    searches = [
        steps("Is it so?\n\nTea", model=facts_of, config=config, query="Tea"),
        steps("Q two", model=facts_of, config=config, passages=own, number=1),
    ]
    events = list(drive(searches, model.engine, retriever))
    assert [queries for queries, _ in retriever.calls] == [["Tea"]]
    assert "Is it so?" in model.tokenizer.surface(model.engine.calls[0][0].prompt_ids)
    (read,) = [e for e in events if isinstance(e, RetrievalEvent) and e.question == 1]
    assert [hit.passage.id for hit in read.hits] == ["p2", "p3"]


def questions_of(model, texts=QUESTIONS, **options):
    config = SearchConfig(threshold=0.0, top_k=2, **options)
    model_facts = Model.of(model.engine)
    return [steps(text, model=model_facts, config=config, number=n) for n, text in enumerate(texts)]


def test_a_level_of_all_questions_is_one_engine_call():
    model = RandomModel(3)
    events = list(drive(questions_of(model, max_segments=1), model.engine, Asked()))
    assert [len(call) for call in model.engine.calls] == [4, 8]
    assert [e.question for e in events if isinstance(e, GateEvent)] == [0, 1, 2, 3]


def test_a_question_joins_a_batch_that_is_running():
    model = WildModel(3)
    config = SearchConfig(threshold=0.0, top_k=2, max_segments=3)
    asked = questions_of(model, max_segments=3)
    batch = Batch(
        {
            Lookup: lambda asks: [
                [list(GivenPassages(PASSAGES).hits[: ask.top_k]) for _ in ask.queries]
                for ask in asks
            ],
            Generate: lambda asks: [model.engine.generate(ask.requests) for ask in asks],
        }
    )
    events = [*batch.join(asked[0]), *batch.round()]
    assert [type(event) for event in events] == [GateEvent]  # the first question has begun
    for late in asked[1:]:
        events += batch.join(late)
    while len(batch):
        events += batch.round()
    assert sorted(e.question for e in events if isinstance(e, FinishEvent)) == [0, 1, 2, 3]
    for number, text in enumerate(QUESTIONS):
        alone = WildModel(3)
        one = steps(text, model=Model.of(alone.engine), config=config, number=number)
        expected = list(drive([one], alone.engine, GivenPassages(PASSAGES)))
        assert facts(e for e in events if e.question == number) == facts(expected)


def test_a_closed_question_is_asked_for_nothing_more():
    model = RandomModel(3)
    asked = questions_of(model, max_segments=2)
    told = []
    for event in drive(asked, model.engine, Asked()):
        told.append(event)
        if isinstance(event, GateEvent) and event.question == 0:
            asked[0].close()
            asked[2].close()
    assert {type(e) for e in told if e.question == 0} == {GateEvent}
    assert not [e for e in told if e.question == 2]
    assert sum(isinstance(e, FinishEvent) for e in told) == 2
    # The gates of all four are one call; after it only the two questions left ask.
    prompts = [
        model.tokenizer.surface(r.prompt_ids) for call in model.engine.calls[1:] for r in call
    ]
    assert prompts and not any("Q one" in prompt or "Q three" in prompt for prompt in prompts)


def test_closing_the_events_cancels_every_question():
    model = RandomModel(3)
    asked = questions_of(model, max_segments=2)
    events = drive(asked, model.engine, Asked())
    next(events)
    events.close()
    assert len(model.engine.calls) == 1
    assert all(list(each) == [] for each in asked)  # closed generators are over


def test_an_error_of_the_engine_cancels_every_question():
    def script(ids):
        raise BadInput("cannot go on")

    engine = ScriptedEngine(ScriptedTokenizer(), script)
    asked = [steps("Q", model=Model.of(engine), config=SearchConfig(), number=n) for n in range(2)]
    with pytest.raises(BadInput, match="cannot go on"):
        list(drive(asked, engine, Asked()))
    assert all(list(each) == [] for each in asked)


def test_at_most_so_many_are_in_flight_and_the_next_joins_when_one_has_ended():
    model = RandomModel(3)
    begun = []

    def coming():
        for n, each in enumerate(questions_of(model, max_segments=1)):
            begun.append(n)
            yield each

    finished = []
    for event in drive(coming(), model.engine, Asked(), at_once=2):
        if isinstance(event, FinishEvent):
            finished.append(event.question)
        assert len(begun) - len(finished) <= 3  # the one that ended is still telling so
    assert finished == [0, 1, 2, 3]
    # The gates of two, their segments, then the same for the other two.
    assert [len(call) for call in model.engine.calls] == [2, 4, 2, 4]


def test_any_kinds_of_ask_are_served_in_the_order_of_the_servers():
    served = []

    def ask(*asks):
        for each in asks:
            yield ("told", (yield each))

    def serve(name):
        return lambda asks: served.append((name, list(asks))) or [each * 2 for each in asks]

    told = list(run([ask(1, "a", 2), ask("b", 3), ask()], {int: serve("int"), str: serve("str")}))
    # Whoever asks for a number is served first; strings wait until all ask for one.
    assert served == [("int", [1]), ("str", ["a", "b"]), ("int", [2, 3])]
    assert sorted(str(reply) for _, reply in told) == ["2", "4", "6", "aa", "bb"]


def test_a_question_that_cannot_be_asked_is_refused_before_anything_is():
    engine = ScriptedEngine(ScriptedTokenizer(), {})
    with pytest.raises(BadInput, match="the question is empty"):
        steps(" ", model=Model.of(engine), config=SearchConfig())
    with pytest.raises(BadInput, match="scripted has room for"):
        steps("long " * 5000, model=Model.of(engine), config=SearchConfig())
    assert say("x") and not engine.calls


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"max_new_tokens": 100_000}, "lower max_new_tokens"),
        ({"max_passage_tokens": 50_000}, "lower max_new_tokens, max_passage_tokens"),
        ({"n_evidence": 1_000}, "lower max_new_tokens, max_passage_tokens or n_evidence"),
    ],
)
def test_settings_that_leave_no_room_are_not_blamed_on_the_question(options, advice):
    with pytest.raises(BadInput, match=advice) as raised:
        RandomModel(0).answer(["Why?"], **options)
    assert "shorten the question" not in str(raised.value)
