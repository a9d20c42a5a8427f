"""How good the default weights are: answers against baselines, critique, gate. Needs labelled sets.

`python benchmarks/default_quality.py --data DIR --limit 500 --json` answers fixed dev questions of
`wiki_retrieval` (SQuAD and NQ, half each) over its 59,077 passages with BM25 top 5. All systems
read the same hits. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from baselines import RAG_PROMPTS, PlainModel
from corpus import Bm25, CachedEngine, Question, dev_questions, dev_rows
from selfrag.cli.console import Reporter
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import CandidateEvent, Event, GateEvent
from selfrag.decode.gate import RetrievalMode, paper_gate
from selfrag.decode.score import support_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Engine, Precision, Request
from selfrag.open.calibrations import weights_name
from selfrag.open.engines import BASE, ModelOptions, open_engine
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve, Support
from selfrag.text import find_gold, first_sentence, holds_gold
from selfrag.trace.file import save_trace

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "default_weights"))
from contrasts import capital, wrong_answer
from labelled import (
    NOT_IN_PASSAGE,
    LabelledQuestion,
    answer_lead,
    answer_sentence,
    answer_text,
    swap_answer,
)
from mix import CLAIM_TEMPLATES, creative_instructions, is_held_out
from pairs import Part, read_pairs
from sets import read_set, untokenise, wiki_passages


class Systems(StrEnum):
    """Which systems answer; the two halves may run beside each other."""

    ALL = "all"
    OURS = "ours"
    BASELINES = "baselines"


TOP_K = 5
JUDGED = {
    "squad2": ("squad/dev_v2.0",),
    "clapnq": ("clapnq/dev_answerable", "clapnq/dev_unanswerable"),
}
CHUNK = 16  # questions searched together


def say(message: str) -> None:
    """Progress goes to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def share(hits: Iterable[bool]) -> float:
    """The mean of booleans, rounded."""
    values = list(hits)
    return round(sum(values) / max(len(values), 1), 4)


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Area under the ROC curve: how often a positive outranks a negative, ties count half."""
    higher = np.subtract.outer(np.array(positive), np.array(negative))
    return round(float(np.mean((higher > 0) + 0.5 * (higher == 0))), 4)


def match(text: str, question: Question) -> bool:
    """Whether a gold string stands in the answer, letter case aside, at word boundaries."""
    return holds_gold(text, question.answers)


def run_ours(
    questions: Sequence[Question], engine: Engine, corpus: Bm25, mode: RetrievalMode
) -> tuple[list[str], list[Event]]:
    """The answers in order, and all events with `question` counting through the whole run."""
    answers: list[str] = []
    events: list[Event] = []
    config = SearchConfig(mode=mode, top_k=TOP_K, max_segments=3)
    for start in range(0, len(questions), CHUNK):
        chunk = questions[start : start + CHUNK]

        def keep(event: Event, start: int = start) -> None:
            events.append(replace(event, question=event.question + start))

        done = answer_questions(
            [q.text for q in chunk], engine=engine, retriever=corpus, config=config, on_event=keep
        )
        answers += [answer.text for answer in done]
        right = share(match(t, q) for t, q in zip(answers, questions, strict=False))
        say(f"{mode}: {len(answers)} of {len(questions)}, {right}")
    return answers, events


def relevance_auc(questions: Sequence[Question], events: Sequence[Event]) -> float:
    """Gold passages against BM25 hits without an answer, on the first segment's candidates."""
    gold: list[float] = []
    negative: list[float] = []
    for event in events:
        if not isinstance(event, CandidateEvent) or event.node.hit is None:
            continue
        segment, question = event.node.segment, questions[event.question]
        if segment is None or len(event.node.path) > 1 or segment.scores.relevance is None:
            continue
        passage = event.node.hit.passage
        if passage.id in question.gold_ids:
            gold.append(segment.scores.relevance)
        elif not holds_gold(f"{passage.title} {passage.text}", question.answers):
            negative.append(segment.scores.relevance)
    say(f"relevance: {len(gold)} gold, {len(negative)} negative passages")
    return auc(gold, negative)


def found_answers(
    questions: Sequence[Question], answers: Sequence[str], events: Sequence[Event]
) -> dict[str, float]:
    """Where a passage holds the answer: right as answered, and as written from rank 1."""
    first: dict[int, str] = {}
    found: set[int] = set()
    for event in events:
        if not isinstance(event, CandidateEvent) or event.node.hit is None:
            continue
        if event.node.segment is None or len(event.node.path) > 1:
            continue
        passage = event.node.hit.passage
        if holds_gold(f"{passage.title} {passage.text}", questions[event.question].answers):
            found.add(event.question)
        if event.node.hit.rank == 1:
            first[event.question] = event.node.segment.text
    return {
        "found": len(found),
        "found_right": share(match(answers[n], questions[n]) for n in found),
        "found_right_rank_1": share(match(first.get(n, ""), questions[n]) for n in found),
    }


def support_figures(
    questions: Sequence[Question], engine: Engine, corpus: Bm25, limit: int
) -> dict[str, float]:
    """IsSup of the answer sentence, alone and behind a short answer, against texts that are wrong.

    Alone: with its gold passage against itself with a BM25 hit that lacks the answer, and against
    itself with the answer exchanged for another of its kind. Behind a short answer: the right one
    against a wrong one of the same kind, and how many of each are judged supported.
    """
    rng = np.random.default_rng(0)
    fmt = PromptFormat.of(engine.tokenizer)
    pool = [answer for question in questions for answer in question.answers[:1]]
    requests: list[Request] = []
    kinds: list[str] = []
    hits = corpus.search([q.text for q in questions[:limit]], 20)
    for number, (question, ranked) in enumerate(zip(questions[:limit], hits, strict=True)):
        gold = corpus.passages[question.gold_ids[0]]
        sentence = answer_sentence(question.text, question.answers, gold.text)
        foreign = next(
            (h.passage for h in ranked if not holds_gold(h.passage.text, question.answers)), None
        )
        if sentence is None or foreign is None:
            continue
        cases = [("supported", gold, sentence), ("foreign", foreign, sentence)]
        swapped = swap_answer(sentence, question.answers, pool, rng)
        if swapped is not None:
            cases.append(("swapped", gold, swapped))
        shorts = short_answers(question, gold, sentence, pool, np.random.default_rng(number))
        cases += [(kind, gold, text) for kind, text in shorts]
        for kind, passage, text in cases:
            ids = [*fmt.instruction(question.text), fmt.ids[Retrieve.YES]]
            ids += [*fmt.passage(passage, 512), fmt.ids[Relevance.RELEVANT]]
            ids += fmt.join([text], continues=True)
            requests.append(Request(prefix_ids=tuple(ids), max_new_tokens=1, watch_ids=fmt.ids.all))
            kinds.append(kind)
    scores: dict[str, list[float]] = {}
    for kind, done in zip(kinds, engine.generate(requests), strict=True):
        scores.setdefault(kind, []).append(support_score(done.watched[0, COLUMNS[Support]]))
    say(f"support: { ({kind: len(values) for kind, values in scores.items()}) } cases")
    return {
        "issup_auc": auc(scores["supported"], scores["foreign"] + scores["swapped"]),
        "issup_auc_swapped": auc(scores["supported"], scores["swapped"]),
        "issup_auc_short": auc(scores["right"], scores["wrong"]),
        "right_short_supported": share(score >= 0.5 for score in scores["right"]),
        "wrong_short_supported": share(score >= 0.5 for score in scores["wrong"]),
    }


def short_answers(
    question: Question,
    gold: Passage,
    sentence: str,
    pool: Sequence[str],
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """The answer sentence behind the right short answer and behind a wrong one of its kind."""
    answer = next(a for a in question.answers if find_gold(a, sentence))
    item = LabelledQuestion(
        id="", dataset="", question=question.text, answers=question.answers, gold=gold, negatives=()
    )
    wrong = wrong_answer(item, gold, answer_lead(answer, sentence), pool, rng)
    if wrong is None:
        return []
    return [
        ("right", answer_text(answer, sentence)),
        ("wrong", f"{capital(wrong)}. {sentence}"),
    ]


def refusals(data: Path, engine: Engine, corpus: Bm25, n: int) -> dict[str, float]:
    """Questions of two sets, each with the one passage that people judged: read, or refused.

    `n` answerable and `n` unanswerable ones of each set, of articles that no training reads; the
    AUC is that of the relevance score. Refused: no answer, or the sentence that says so.
    """
    scores: dict[tuple[str, Relevance], list[float]] = {}
    refused: dict[Relevance, list[bool]] = {label: [] for label in Relevance}
    config = SearchConfig(mode=RetrievalMode.ALWAYS, max_segments=1)
    for name, sources in JUDGED.items():
        pairs = [pair for each in sources for pair in read_pairs(data, each, Part.MEASURE)]
        order = np.random.default_rng(0).permutation(len(pairs))
        for label in Relevance:
            drawn = [pairs[int(i)] for i in order if pairs[int(i)].relevance is label][:n]
            found = scores.setdefault((name, label), [])

            def keep(event: Event, found: list[float] = found) -> None:
                if isinstance(event, CandidateEvent) and event.node.segment is not None:
                    relevance = event.node.segment.scores.relevance
                    found += [] if relevance is None else [relevance]

            answers = answer_questions(
                [pair.question for pair in drawn],
                engine=engine,
                retriever=corpus,
                config=config,
                passages=[[pair.passage] for pair in drawn],
                on_event=keep,
            )
            refused[label] += [a.abstained or NOT_IN_PASSAGE in a.text for a in answers]
            say(f"refusals: {name} {label}: {len(drawn)}, {share(refused[label])}")
    result = {
        f"isrel_auc_{name}": auc(
            scores[name, Relevance.RELEVANT], scores[name, Relevance.IRRELEVANT]
        )
        for name in JUDGED
    }
    result["refused_unanswerable"] = share(refused[Relevance.IRRELEVANT])
    result["refused_answerable"] = share(refused[Relevance.RELEVANT])
    return result


def gate_share(instructions: Sequence[str], engine: Engine, threshold: float) -> float:
    """The share of instructions for which the gate retrieves."""
    fmt = PromptFormat.of(engine.tokenizer)
    requests = [
        Request(
            prefix_ids=tuple(fmt.instruction(text)), max_new_tokens=1, watch_ids=fmt.ids.retrieve
        )
        for text in instructions
    ]
    gates = [paper_gate(d.watched[0, 1], d.watched[0, 0]) for d in engine.generate(requests)]
    return share(gate > threshold for gate in gates)


def factual_questions(data: Path, n: int) -> list[str]:
    """Questions and claims of sets or splits that the training mix never reads."""
    rng = np.random.default_rng(1)
    sources = [
        [row["question"] for row in read_set(data, "nq_open/efficientqa_dev")],
        [row["question"] for row in read_set(data, "webquestions/test_part")],
        [row["question"] for row in read_set(data, "triviaqa/test_part")],
        [row["question"] for row in read_set(data, "popqa/popqa_part")],
        [CLAIM_TEMPLATES[0].format(row["claim"]) for row in read_set(data, "fever/symmetric_dev")],
    ]
    per = n // len(sources)
    return [source[int(i)] for source in sources for i in rng.permutation(len(source))[:per]]


def held_out_instructions(data: Path, n: int) -> list[str]:
    """Writing, rewriting and chat instructions that the mix holds out."""
    held = [text for text, _ in creative_instructions(data) if is_held_out(text)]
    order = np.random.default_rng(2).permutation(len(held))[:n]
    return [held[int(index)] for index in order]


def plain_engine() -> Engine:
    """The base model as shipped in its package, without our adapter."""
    return open_engine(ModelOptions(model=BASE), Reporter(), max_batch=48, reflects=False)


def run_baselines(questions: Sequence[Question], corpus: Bm25) -> dict[str, float]:
    """Closed-book and plain RAG with the base model, each on the prompt that did best of two."""
    model = PlainModel(plain_engine())
    hits = corpus.search([q.text for q in questions], TOP_K)
    scores: dict[str, float] = {}
    for name, n_passages in (("closed_book", 0), ("rag_top1", 1), ("rag_top5", 5)):
        picked = [[hit.passage for hit in ranked[:n_passages]] for ranked in hits]
        texts = [q.text for q in questions]
        prompt = model.best_prompt(questions[:16], picked[:16], match) if n_passages else 0
        said = model.answer(texts, picked, RAG_PROMPTS[prompt])
        scores[name] = share(match(t, q) for t, q in zip(said, questions, strict=True))
        say(f"{name}: {scores[name]} (prompt {prompt})")
    return scores


def save_both_branches(
    path: Path,
    questions: Sequence[Question],
    always: Sequence[Event],
    never: Sequence[Event],
    weights: str,
) -> None:
    """Both searches of every question, which `selfrag rescore` reads as one with two branches."""
    for events in (always, never):
        texts, golds = [q.text for q in questions], [q.answers for q in questions]
        save_trace(path, texts, events, answers=golds, model=weights)


def measure(
    data: Path,
    limit: int,
    support_limit: int,
    traces: Path | None,
    part: Systems,
    model: ModelOptions,
) -> dict[str, float]:
    """The figures of one part or of both, by name."""
    passages = wiki_passages(data)
    corpus = Bm25(passages)
    questions = dev_questions(dev_rows(data), limit)
    questions = [replace(q, answers=tuple(map(untokenise, q.answers))) for q in questions]
    hits = corpus.search([q.text for q in questions], TOP_K)
    recall = share(
        any(holds_gold(h.passage.text, q.answers) for h in ranked)
        for q, ranked in zip(questions, hits, strict=True)
    )
    say(f"{len(questions)} questions, answer in the top {TOP_K}: {recall}")
    result: dict[str, float] = {"n": len(questions), "recall_at_5": recall}
    if part is not Systems.BASELINES:
        result.update(measure_ours(data, questions, corpus, support_limit, traces, model))
    if part is not Systems.OURS:
        result.update(run_baselines(questions, corpus))
    return result


def measure_ours(
    data: Path,
    questions: Sequence[Question],
    corpus: Bm25,
    support_limit: int,
    traces: Path | None,
    model: ModelOptions,
) -> dict[str, float]:
    """The figures of the default weights, by name."""
    result: dict[str, float] = {}
    engine = CachedEngine(open_engine(model, Reporter(), max_batch=48))
    result["gate_factual"] = gate_share(factual_questions(data, 200), engine, 0.2)
    result["gate_instructions"] = gate_share(held_out_instructions(data, 100), engine, 0.2)
    say(f"gate: {result}")
    result |= support_figures(questions, engine, corpus, support_limit)
    say(f"support: {result}")
    result |= refusals(data, engine, corpus, support_limit // 2)
    say(f"refusals: {result}")
    always, events = run_ours(questions, engine, corpus, RetrievalMode.ALWAYS)
    result["always"] = share(match(t, q) for t, q in zip(always, questions, strict=True))
    begun = [first_sentence(text) for text in always]
    result["always_short"] = share(match(t, q) for t, q in zip(begun, questions, strict=True))
    result["isrel_auc"] = relevance_auc(questions, events)
    result |= found_answers(questions, always, events)
    say(f"always: {result}")
    never, without = run_ours(questions, engine, corpus, RetrievalMode.NEVER)
    result["never"] = share(match(t, q) for t, q in zip(never, questions, strict=True))
    if traces is not None:
        save_both_branches(traces, questions, events, without, weights_name(model))
    adaptive, events = run_ours(questions, engine, corpus, RetrievalMode.ADAPTIVE)
    result["adaptive"] = share(match(t, q) for t, q in zip(adaptive, questions, strict=True))
    gates = [event.gate for event in events if isinstance(event, GateEvent)]
    result["adaptive_retrieval_rate"] = share(gate.retrieve for gate in gates)
    return result


def main() -> None:
    """Parses the arguments and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--limit", type=int, default=500, help="dev questions")
    parser.add_argument("--support-limit", type=int, default=150, help="questions for IsSup")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--traces", type=Path, help="JSONL file for `selfrag rescore`")
    parser.add_argument("--part", type=Systems, choices=list(Systems), default=Systems.ALL)
    parser.add_argument("--precision", type=Precision, choices=list(Precision), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of the OpenVINO engine")
    options = parser.parse_args()
    model = ModelOptions(precision=options.precision, threads=options.threads)
    started = time.perf_counter()
    result = measure(
        options.data,
        options.limit,
        options.support_limit,
        options.traces,
        options.part,
        model,
    )
    result["seconds"] = round(time.perf_counter() - started, 1)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
