"""What the released short-form script answers, faults included, given the same probabilities.

Released: AkariAsai/self-rag 1fcdc42, `retrieval_lm/run_short_form.py`,
`call_model_rerank_w_scores_batch`. Knows nothing of engines; docs/compat.md names the faults.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfrag.compat.completer import (
    Completer,
    Crash,
    ReferenceConfig,
    ReferencePrompt,
    Written,
    clean,
    holds,
    spell,
)
from selfrag.decode.gate import RetrievalMode, reference_gate
from selfrag.decode.score import relevance_score, support_score, utility_score
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Retrieve, Support, Utility

NO_THRESHOLD = Crash(
    error="UnboundLocalError",
    cause="the adaptive decision without a threshold searches a text that was never set",
    instead="retrieves when the model wrote the retrieval token into its first answer's text",
)
ONE_PASSAGE = Crash(
    error="AttributeError",
    cause="one passage in mode always is taken for an answer without retrieval",
    instead="answers from that passage",
)
NO_PASSAGES = Crash(
    error="IndexError",
    cause="the best of no candidates is asked for",
    instead="answers without retrieval",
)
NO_PASSAGES_ADAPTIVE = Crash(
    error="UnboundLocalError",
    cause="a decision to retrieve with no passages leaves no text to clean",
    instead="answers without retrieval",
)
CERTAIN_OF_BOTH = Crash(
    error="ZeroDivisionError",
    cause="both log-probabilities of the adaptive decision are 0, and so is their sum",
    instead="takes the ratio for 0.5",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortCandidate:
    """What was written from one passage. Parts that are switched off or not written are 0.

    `text` is raw, `cleaned` without control tokens; `score` is the weighted sum of the parts.
    """

    passage: Passage
    text: str
    cleaned: str
    relevance: float
    support: float
    utility: float
    sequence: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortAnswer:
    """The answer of the short-form script; `candidates` in passage order, none without retrieval.

    `gate` is the ratio of log-probabilities where the mode asked for it.
    """

    text: str
    retrieved: bool
    gate: float | None
    candidates: tuple[ShortCandidate, ...]
    crash: Crash | None


def answer_short_form(
    instruction: str,
    passages: Sequence[Passage],
    *,
    completer: Completer,
    config: ReferenceConfig,
) -> ShortAnswer:
    """One answer from the best passage (open) or the best voted text (closed).

    Two or fewer calls of the completer. Ties go to the first passage.
    """
    prompt = ReferencePrompt(instruction=instruction)
    gate, retrieve, crash = _gate(prompt, completer, config)
    crash = crash or _crash(len(passages), config, retrieve=retrieve)
    if not retrieve or not passages:
        after = prompt.then((Retrieve.NO,))
        (written,) = completer.complete([after], max_new_tokens=config.max_new_tokens)
        text = clean(written.pieces)
        return ShortAnswer(text=text, retrieved=False, gate=gate, candidates=(), crash=crash)
    prompts = [prompt.reading(passage) for passage in passages]
    completions = completer.complete(prompts, max_new_tokens=config.max_new_tokens)
    candidates = tuple(
        _candidate(passage, written, config)
        for passage, written in zip(passages, completions, strict=True)
    )
    text = _most_voted(candidates) if config.closed else _best(candidates).text
    return ShortAnswer(text=text, retrieved=True, gate=gate, candidates=candidates, crash=crash)


def _gate(
    prompt: ReferencePrompt, completer: Completer, config: ReferenceConfig
) -> tuple[float | None, bool, Crash | None]:
    """The number that was compared, whether to retrieve, and the exception met on the way."""
    if config.mode is not RetrievalMode.ADAPTIVE:
        return None, config.mode is RetrievalMode.ALWAYS, None
    # The released script decodes max_new_tokens here, but reads the first position only.
    n_read = 1 if config.threshold is not None else config.max_new_tokens
    (written,) = completer.complete([prompt], max_new_tokens=n_read)
    if config.threshold is None:
        return None, holds(written.pieces, Retrieve.YES), None
    no, yes, _ = written.at_start(Retrieve)
    ratio = reference_gate(float(yes), float(no))
    return ratio, ratio > config.threshold, None if yes + no else CERTAIN_OF_BOTH


def _crash(n_passages: int, config: ReferenceConfig, *, retrieve: bool) -> Crash | None:
    """The first exception that the released script meets on its way."""
    is_adaptive = config.mode is RetrievalMode.ADAPTIVE
    if is_adaptive and config.threshold is None:
        return NO_THRESHOLD
    if retrieve and n_passages == 0:
        return NO_PASSAGES_ADAPTIVE if is_adaptive else NO_PASSAGES
    # In mode adaptive the first decoding counts as a second result, which hides the fault.
    return ONE_PASSAGE if retrieve and n_passages == 1 and not is_adaptive else None


def _candidate(passage: Passage, written: Written, config: ReferenceConfig) -> ShortCandidate:
    relevance = relevance_score(written.at_start(Relevance))
    support = written.first(Support) if config.use_groundness else None
    utility = written.first(Utility) if config.use_utility else None
    support_part = 0.0 if support is None else support_score(support)
    utility_part = 0.0 if utility is None else utility_score(utility)
    sequence = float(np.exp(written.logprobs.mean())) if config.use_seqscore else 0.0
    weights = config.weights
    return ShortCandidate(
        passage=passage,
        text=spell(written.pieces),
        cleaned=clean(written.pieces),
        relevance=relevance,
        support=support_part,
        utility=utility_part,
        sequence=sequence,
        score=sequence
        + weights.relevance * relevance
        + weights.support * support_part
        + weights.utility * utility_part,
    )


def _best(candidates: Sequence[ShortCandidate]) -> ShortCandidate:
    return max(candidates, key=lambda candidate: candidate.score)


def _most_voted(candidates: Sequence[ShortCandidate]) -> str:
    """The cleaned text with the largest sum of scores; "A" and "A." are two texts."""
    votes: dict[str, float] = defaultdict(float)
    for candidate in candidates:
        votes[candidate.cleaned] += candidate.score
    return max(votes, key=lambda text: votes[text])
