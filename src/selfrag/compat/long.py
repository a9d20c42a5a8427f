"""What the released long-form script's search finds, faults included, given the same probabilities.

Released: AkariAsai/self-rag 1fcdc42, `retrieval_lm/run_long_form_static.py`,
`call_model_beam_batch` and `run_step_generation_batch`. Knows nothing of engines; docs/compat.md
names the faults.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfrag.compat.completer import (
    Completer,
    Crash,
    End,
    Pieces,
    ReferenceConfig,
    ReferencePrompt,
    Written,
    cut_at_blank_line,
    cut_before,
    holds,
    spell,
)
from selfrag.decode.gate import RetrievalMode, paper_gate
from selfrag.decode.score import FloatArray, relevance_score, support_score
from selfrag.decode.segment import COLUMNS
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Retrieve, Support, Utility

# How far the entry decision reads; a constant of the released script.
ENTRY_TOKENS = 25

NEVER = Crash(
    error="UnboundLocalError",
    cause="mode never sets no decision",
    instead="answers without retrieval",
)
NO_THRESHOLD = Crash(
    error="TypeError",
    cause="without a threshold, a written no-retrieval token is compared with None",
    instead="leaves the text as written and goes on",
)
NO_LEVEL = Crash(
    error="KeyError",
    cause="the deepest level is looked up, and none was written",
    instead="answers with an empty text, without passages",
)
UTILITY_WITHOUT_GROUNDNESS = Crash(
    error="AttributeError",
    cause="a written utility token is read with the groundness tokens, which are switched off",
    instead="counts the utility as 0, as with them on",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LongNode:
    """One node of the tree; `number` counts from 0, the root, in order of creation.

    `prompt` is what the node stores as written before it, a sibling's text where that leaks in.
    `text` is the whole continuation with retrieval asked for anew; `segment` ends before the first
    request. `score` is a product along the path, None at the root, as is `written`.
    """

    number: int
    parent: "LongNode | None"
    prompt: ReferencePrompt
    text: Pieces
    segment: Pieces
    passage: Passage | None
    score: float | None
    written: Written | None

    @property
    def path(self) -> tuple["LongNode", ...]:
        """The nodes from the root to this one."""
        return (*(self.parent.path if self.parent else ()), self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LongPath:
    """One surviving path, root first; `ignore_cont` has dropped nodes from it."""

    nodes: tuple[LongNode, ...]

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments with their control tokens; the root's is empty."""
        return tuple(spell(node.segment) for node in self.nodes)

    @property
    def passages(self) -> tuple[Passage | None, ...]:
        """The passage of each segment; None for the root."""
        return tuple(node.passage for node in self.nodes)

    @property
    def originals(self) -> tuple[str, ...]:
        """The uncut continuations."""
        return tuple(spell(node.text) for node in self.nodes)

    @property
    def text(self) -> str:
        """The segments joined by a space; begins with one, because the root's is empty."""
        return " ".join(self.segments)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LongAnswer:
    """The answer of the long-form script; `paths` best first, and `nodes`, empty if none is read.

    `text` is that of the first path, or what was written without retrieval.
    """

    text: str
    retrieved: bool
    paths: tuple[LongPath, ...]
    nodes: tuple[LongNode, ...]
    crash: Crash | None


def answer_long_form(
    instruction: str,
    passages: Sequence[Passage],
    *,
    completer: Completer,
    config: ReferenceConfig,
) -> LongAnswer:
    """The paths that the released search keeps at its deepest level, or one text.

    One call of the completer for each expanded node. Ties keep the order of creation.
    """
    prompt = ReferencePrompt(instruction=instruction)
    if not _decides_to_retrieve(prompt, completer, config):
        after = prompt.then((Retrieve.NO,))
        (written,) = completer.complete([after], max_new_tokens=config.max_new_tokens)
        return LongAnswer(
            text=spell(cut_at_blank_line(written.pieces)),
            retrieved=False,
            paths=(),
            nodes=(),
            crash=NEVER if config.mode is RetrievalMode.NEVER else None,
        )
    nodes, deepest = _search(prompt, passages, completer, config)
    paths = tuple(_path(node, config) for node in deepest)
    return LongAnswer(
        text=paths[0].text,
        retrieved=True,
        paths=paths,
        nodes=tuple(nodes),
        crash=_first_crash(nodes, config),
    )


def _decides_to_retrieve(
    prompt: ReferencePrompt, completer: Completer, config: ReferenceConfig
) -> bool:
    """The string test on the decoded text comes first: stripped text never passes it."""
    if config.mode is not RetrievalMode.ADAPTIVE:
        return config.mode is RetrievalMode.ALWAYS
    (written,) = completer.complete([prompt], max_new_tokens=ENTRY_TOKENS)
    if config.threshold is None or not holds(cut_at_blank_line(written.pieces), Retrieve.YES):
        return False
    no, yes, _ = written.at_start(Retrieve)
    return paper_gate(float(yes), float(no)) > config.threshold


def _search(
    prompt: ReferencePrompt,
    passages: Sequence[Passage],
    completer: Completer,
    config: ReferenceConfig,
) -> tuple[list[LongNode], list[LongNode]]:
    """All nodes, and those kept at the deepest level, best first."""
    root = LongNode(
        number=0,
        parent=None,
        prompt=prompt,
        text=(Retrieve.YES,),
        segment=(),
        passage=None,
        score=None,
        written=None,
    )
    nodes, level = [root], [root]
    has_ended = False
    for _ in range(1, config.max_depth):
        first = len(nodes)
        for node in level:
            # One such node ends the search after its level, whatever its siblings still ask for.
            has_ended = has_ended or spell(node.text) == End.OF_SEQUENCE
            if holds(node.text, Retrieve.YES):
                nodes += _expand(node, passages, len(nodes), completer, config)
        children = nodes[first:]
        if not children:
            break
        # Finished nodes of the level before are forgotten here, whatever they scored.
        level = sorted(children, key=lambda node: -(node.score or 0.0))[: config.beam_width]
        if has_ended:
            break
    return nodes, level


def _expand(
    parent: LongNode,
    passages: Sequence[Passage],
    first_number: int,
    completer: Completer,
    config: ReferenceConfig,
) -> list[LongNode]:
    """One child a passage. Each but the first stores its elder sibling's segment as its prefix."""
    before = parent.prompt.then(parent.segment)
    completions = completer.complete(
        [before.reading(passage) for passage in passages], max_new_tokens=config.max_new_tokens
    )
    texts = [_ask_anew(written, config.threshold) for written in completions]
    segments = [cut_before(text, Retrieve.YES) for text in texts]
    leaked = [parent.segment, *segments[:-1]]
    so_far = 1.0 if parent.score is None else parent.score
    return [
        LongNode(
            number=first_number + i,
            parent=parent,
            prompt=parent.prompt.then(leaked[i]),
            text=texts[i],
            segment=segments[i],
            passage=passage,
            score=so_far * _step_score(completions[i], config),
            written=completions[i],
        )
        for i, passage in enumerate(passages)
    ]


def _step_score(written: Written, config: ReferenceConfig) -> float:
    """Relevance plus support: the released utility is always 0, weights are never read."""
    support = written.first(Support) if config.use_groundness else None
    relevance = relevance_score(written.at_start(Relevance))
    return relevance + (0.0 if support is None else support_score(support))


def _ask_anew(written: Written, threshold: float | None) -> Pieces:
    """The text with some [No Retrieval] turned into [Retrieval], and a [No Retrieval] put last.

    Happens only where the text shows such a token; a missing threshold leaves it as written.
    """
    if threshold is None or not holds(written.pieces, Retrieve.NO):
        return written.pieces
    # Compared twice, as released: what is true is 1, so a threshold of 1 or more rewrites nothing.
    anew = iter(
        (_wants_passage(written.watched[i, COLUMNS[Retrieve]]) > threshold) > threshold
        for i, token in enumerate(written.controls)
        if token is Retrieve.NO
    )
    turned = [
        Retrieve.YES if piece is Retrieve.NO and next(anew) else piece for piece in written.pieces
    ]
    return (*turned, Retrieve.NO)


def _wants_passage(logprobs: FloatArray) -> float:
    """(p(yes) + p(continue)) / (p(yes) + p(no)), no probability. `logprobs`: (3,), nats."""
    no, yes, go_on = np.exp(logprobs - logprobs.max())
    total = yes + no
    return float((yes + go_on) / total) if total else 0.0


def _path(node: LongNode, config: ReferenceConfig) -> LongPath:
    """`ignore_cont` takes contradicted segments out of the text, not out of the search."""
    return LongPath(
        nodes=tuple(
            step
            for step in node.path
            if not (config.ignore_cont and holds(step.segment, Support.NONE))
        )
    )


def _first_crash(nodes: Sequence[LongNode], config: ReferenceConfig) -> Crash | None:
    if len(nodes) == 1:
        return NO_LEVEL
    for node in nodes:
        if node.written is None:
            continue
        if (
            config.use_utility
            and not config.use_groundness
            and node.written.first(Utility) is not None
        ):
            return UTILITY_WITHOUT_GROUNDNESS
        if config.threshold is None and holds(node.written.pieces, Retrieve.NO):
            return NO_THRESHOLD
    return None
