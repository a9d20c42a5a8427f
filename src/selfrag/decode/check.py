"""A text that anyone wrote, checked sentence by sentence against passages: our model as the critic.

Nothing is generated: IsRel is read after each passage and IsSup after the sentence that follows,
in the format of training. `check_steps` does no I/O; `check_texts` runs many texts, one call to
the engine a round. What is told of each sentence is a `SentenceCheck`.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfrag.decode.checked import Check, CitationCheck, CitationStatus, Evidence, SentenceCheck
from selfrag.decode.citation import cited_span
from selfrag.decode.claims import Claims, Sentence, split_claims, words_of
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import run, servers_of
from selfrag.decode.grounding import Grounding, Judgement, Verdict, verdict_of
from selfrag.decode.passages import given_hits
from selfrag.decode.search import Generate, Lookup, Model
from selfrag.decode.segment import COLUMNS
from selfrag.decode.sources import SHORT, Sources, query_of
from selfrag.decode.wording import compare
from selfrag.engine.base import Completion, Engine, FloatArray, Request
from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.prompt import check_instruction
from selfrag.reflection import Relevance, Retrieve, Support
from selfrag.retrieval.base import Retriever
from selfrag.text import counted, has_answer, require_text

MAX_CHARACTERS = 200_000  # of a text: about 1,600 sentences, and an hour of a laptop
PAIRS_A_CALL = 128  # bounds memory and how long others wait; engines read dozens together
LEAST_PASSAGE = 32  # tokens of a passage that must have room beside a sentence
LEAST_QUOTE = 4  # words: fewer occur word for word by chance


OnProgress = Callable[[int, int], None]
CheckSteps = Generator[Any, Any, None]  # asks as a search does; the last that it tells is a `Check`


def check_texts(
    texts: Sequence[str],
    *,
    engine: Engine,
    retriever: Retriever,
    question: str = "",
    passages: Sequence[Passage] | None = None,
    grounding: Grounding | None = None,
    config: SearchConfig | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> list[Check]:
    """A check a text, in order; the pairs of all of them are judged together.

    Sentences are compared with `passages` where they are given, else with what is found for them.
    `on_progress` is called with the sentences of a text that are judged, and with all that will be.
    Raises `BadInput` as `check_steps` does, before the engine is asked anything.
    """
    model = Model.of(engine)
    steps = [
        check_steps(
            text,
            model=model,
            question=question,
            passages=passages,
            grounding=grounding or Grounding(),
            config=config or SearchConfig(),
            on_progress=on_progress,
        )
        for text in texts
    ]
    found: dict[str, Check] = {}
    for told in run(steps, servers_of(engine, retriever)):
        found[told.claims.text] = told
    return [found[text] for text in texts]


def check_steps(
    text: str,
    *,
    model: Model,
    question: str = "",
    passages: Sequence[Passage] | None = None,
    grounding: Grounding,
    config: SearchConfig,
    clock: Callable[[], float] = time.monotonic,
    on_progress: OnProgress = lambda done, total: None,
) -> CheckSteps:
    """The check of one text as steps for `drive.run`.

    Of `config` the number and length of passages and `max_seconds` count: sentences that it leaves
    no time for are told as not checked. Raises `BadInput` at once for a text that is empty or too
    long, and for passages without text.
    """
    require_checkable(text)
    require_text(question)
    claims = split_claims(text)
    given = None if passages is None else _readable(passages, model, config)
    sources = Sources(claims, given, top_k=config.top_k)
    checker = _Checker(model, claims, question.strip(), sources, grounding, config)
    until = None if config.max_seconds is None else clock() + config.max_seconds
    return checker.steps(until, clock, on_progress)


def require_checkable(text: str) -> str:
    """`text`; raises `BadInput` where it is empty, too long, or no Unicode."""
    if not text.strip():
        raise BadInput(
            "cannot check: the text is empty; expected an answer or another text of at least one "
            "sentence, so give one"
        )
    if len(text) > MAX_CHARACTERS:
        raise BadInput(
            f"cannot check a text of {len(text):,} characters: expected at most "
            f"{MAX_CHARACTERS:,}, which take about an hour, so check it in parts"
        )
    return require_text(text)


def _readable(
    passages: Sequence[Passage], model: Model, config: SearchConfig
) -> list[tuple[Passage, ...]]:
    """Every given passage in pieces that the model can read; none of one without text."""
    if not any(each.text.strip() for each in passages):
        found = f"{counted(len(passages), 'passage')} without text" if passages else "no passages"
        raise BadInput(
            f"cannot check: found {found}; expected some to compare the text with, so give "
            "passages with text, or an index"
        )
    return [
        tuple(h.passage for h in given_hits([each], model.fmt, config.max_passage_tokens))
        if each.text.strip()
        else ()
        for each in passages
    ]


@dataclass(slots=True)
class _Checker:
    model: Model
    claims: Claims
    question: str
    sources: Sources
    grounding: Grounding
    config: SearchConfig

    def steps(
        self, until: float | None, clock: Callable[[], float], on_progress: OnProgress
    ) -> CheckSteps:
        """Searches, judges, and tells the check."""
        checked = [each for each in self.claims.sentences if not self._why_unchecked(each)]
        on_progress(0, len(checked))
        compared = yield from self._look_up(checked)
        judged: dict[int, list[tuple[Passage, Judgement]]] = {}
        per_sentence = [
            pair_requests(self.model, s.claim, self.question, passages, self.config)
            for s, passages in zip(checked, compared, strict=True)
        ]
        for first, last in _calls([len(pairs) for pairs in per_sentence]):
            if until is not None and clock() > until:
                break
            asked = per_sentence[first:last]
            requests = [request for pairs in asked for _, both in pairs for request in both]
            done = iter((yield Generate(requests)) if requests else ())
            for sentence, pairs in zip(checked[first:last], asked, strict=True):
                judged[sentence.start] = [
                    (passage, self._judge(sentence, passage, next(done), next(done)))
                    for passage, _ in pairs
                ]
            on_progress(last, len(checked))
        alone = {s.start for s, passages in zip(checked, compared, strict=True) if not passages}
        told = tuple(self._told(each, judged, alone) for each in self.claims.sentences)
        yield Check(
            claims=self.claims,
            question=self.question,
            sentences=told,
            passages=self.sources.numbered,
            names_sources=self.sources.says_what_numbers_mean,
            is_fitted=self.grounding.is_fitted,
        )

    def _look_up(self, checked: Sequence[Sentence]) -> Generator[Lookup, Any, list[list[Passage]]]:
        """What each sentence is compared with."""
        found: list[list[Passage]] = [[] for _ in checked]
        if self.sources.needs_search:
            listed = self.sources.listed_queries
            queries = listed + [query_of(each, self.question) for each in checked]
            hits = (yield Lookup(queries, self.config.top_k)) if queries else []
            passages = [[hit.passage for hit in ranked] for ranked in hits]
            self.sources.found_listed(passages[: len(listed)])
            found = passages[len(listed) :]
        return [self.sources.passages_for(*each) for each in zip(checked, found, strict=True)]

    def _why_unchecked(self, sentence: Sentence) -> str:
        """Why a sentence is not judged; empty where it is. A short answer to a question is."""
        if not sentence.is_english:
            return "not in English, which is all that is judged"
        return "" if self.question and sentence.is_short else sentence.why_not

    def _judge(
        self, sentence: Sentence, passage: Passage, read: Completion, said: Completion
    ) -> Judgement:
        wording = compare(statement_of(sentence.claim, self.question), passage.title, passage.text)
        return self.grounding.judge(*pair_logprobs(read, said), wording)

    def _told(
        self,
        sentence: Sentence,
        judged: dict[int, list[tuple[Passage, Judgement]]],
        alone: set[int],
    ) -> SentenceCheck:
        """What came of a sentence; `alone`: those that no passage was found for."""
        verdict, why = Verdict.UNCHECKED, self._why_unchecked(sentence)
        if why:
            verdict = Verdict.NO_CLAIM if why == sentence.why_not else Verdict.UNCHECKED
        elif sentence.start in alone:
            why = "no passage was found for it"
        elif sentence.start not in judged:
            why = "the time was over before it was judged"
        elif not judged[sentence.start]:
            why = "it leaves no room for a passage in the model's context"
        else:
            return self._with_verdict(sentence, judged[sentence.start])
        return SentenceCheck(
            sentence=sentence,
            verdict=verdict,
            reason=why,
            citations=self._citations(sentence, {}),
        )

    def _with_verdict(
        self, sentence: Sentence, judged: Sequence[tuple[Passage, Judgement]]
    ) -> SentenceCheck:
        ranked = sorted(judged, key=lambda pair: -pair[1].probability)
        against = [pair for pair in ranked if pair[1].contradicts]
        # What speaks of other names cannot answer a passage that says otherwise of the same.
        speaking = [p for p in ranked if not p[1].contradicts and (p[1].has_names or not against)]
        best, judgement = speaking[0] if speaking else ranked[0]
        probability = judgement.probability if speaking else 0.0
        verdict = verdict_of(probability, self.grounding, is_contradicted=bool(against))
        if verdict is Verdict.CONTRADICTED:
            best, judgement = against[0]
        first = (best, judgement)
        evidence = [first, *(pair for pair in ranked if pair[0] is not best)]
        return SentenceCheck(
            sentence=sentence,
            verdict=verdict,
            probability=probability,
            reason=judgement.contradicts if verdict is Verdict.CONTRADICTED else "",
            best=self.sources.number_of(best),
            evidence=tuple(Evidence(passage=p, judgement=each) for p, each in evidence),
            span=cited_span(sentence.claim, best.text),
            is_quote=_is_quote(sentence.text, best.text),
            disagreeing=tuple(
                dict.fromkeys(self.sources.number_of(p) for p, _ in against if p is not best)
            ),
            citations=self._citations(sentence, {p.id: each for p, each in judged}),
        )

    def _citations(
        self, sentence: Sentence, judged: dict[str, Judgement]
    ) -> tuple[CitationCheck, ...]:
        return tuple(
            CitationCheck(
                number=number, start=mark.start, end=mark.end, status=self._status(number, judged)
            )
            for mark in sentence.marks
            for number in mark.numbers
        )

    def _status(self, number: int, judged: dict[str, Judgement]) -> CitationStatus:
        if self.sources.says_what_numbers_mean and not self.sources.knows(number):
            return CitationStatus.MISSING
        own = [judged[p.id] for p in self.sources.pieces_of(number) if p.id in judged]
        if not own:
            return CitationStatus.UNKNOWN
        known = (each.probability for each in judged.values() if not each.contradicts)
        # Where a passage supports the sentence, one that does so in part is not what it rests on.
        is_supported = max(known, default=0.0) >= self.grounding.supported
        least = self.grounding.supported if is_supported else self.grounding.partial
        is_right = any(each.probability >= least and not each.contradicts for each in own)
        return CitationStatus.RIGHT if is_right else CitationStatus.WRONG


def pair_requests(
    model: Model,
    sentence: str,
    question: str,
    passages: Iterable[Passage],
    config: SearchConfig,
) -> list[tuple[Passage, tuple[Request, Request]]]:
    """For every passage what reads IsRel and IsSup; none where the sentence leaves no room.

    Both begin alike, and so do those of one sentence: an engine reads that once.
    """
    fmt = model.fmt
    said = fmt.join([sentence], continues=True)
    head = fmt.instruction(question or check_instruction(sentence))
    room = model.max_context - len(head) - len(said) - 5  # three tokens, two markers
    room = min(room, config.max_passage_tokens)
    if room < min(LEAST_PASSAGE, config.max_passage_tokens):
        return []
    asked = []
    for passage in passages:
        read = (*head, fmt.ids[Retrieve.YES], *fmt.passage(passage, room))
        full = (*read, fmt.ids[Relevance.RELEVANT], *said)
        both = (
            Request(prefix_ids=read, max_new_tokens=1, watch_ids=fmt.ids.all),
            Request(prefix_ids=full, max_new_tokens=1, watch_ids=fmt.ids.all),
        )
        asked.append((passage, both))
    return asked


def pair_logprobs(read: Completion, said: Completion) -> tuple[FloatArray, FloatArray]:
    """IsRel (2,) and IsSup (3,) in nats, from the completions of both requests of a pair."""
    return read.watched[0, COLUMNS[Relevance]], said.watched[0, COLUMNS[Support]]


def statement_of(sentence: str, question: str) -> str:
    """What a sentence says: a short answer says it only together with its question."""
    return f"{question} {sentence}" if question and len(words_of(sentence)) <= SHORT else sentence


def _is_quote(sentence: str, passage: str) -> bool:
    bare = sentence.strip(" .!\"'\u201c\u201d\u2026")
    return len(words_of(bare)) >= LEAST_QUOTE and has_answer(passage, [bare])


def _calls(n_pairs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of sentences, first and last (excluded), whose pairs go into one call."""
    first, n = 0, 0
    for row, more in enumerate(n_pairs):
        if n + more > PAIRS_A_CALL and row > first:
            yield first, row
            first, n = row, 0
        n += more
    if first < len(n_pairs):
        yield first, len(n_pairs)
