"""What every engine needs around its model: which rows to read together, and drafts in progress.

Requests lie in a trie of token ids. What the prefix cache holds is not read, a beginning that
several rows share is read once for all of them, and what was read and written is kept for later
calls. Numpy alone. Knows nothing of architectures.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from selfrag.engine.base import Completion, FinishReason, FloatArray, Request
from selfrag.engine.lookup import Guesses, Ids
from selfrag.engine.prefix_cache import Known, PrefixCache, Spans, common_length
from selfrag.errors import BadInput, EngineError
from selfrag.prompt import Tokenizer

# Prompt ids, padding included, that one group may hold: bounds memory, not results.
MAX_PADDED_TOKENS = 8192

# A pass of its own costs about as much as reading this many tokens more in a pass that is made
# anyway, so a common beginning is read first where that saves more.
MIN_SAVED_TOKENS = 32

# Memory for states that later calls may continue.
CACHE_BYTES = 1 << 30

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


@dataclass(slots=True, eq=False)
class Draft:
    """One completion in progress."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    watched: list[FloatArray] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, steps: "Sequence[Step]", guess: Ids) -> int:
        """Appends what was chosen, as far as `guess` held; returns how many ids that were.

        `steps`: what the model chose after the last id and after every id guessed.
        """
        for n, step in enumerate(steps):
            self.add(step)
            if self.finish_reason is not None or n >= len(guess) or guess[n] != step.token_id:
                break
        return n + 1

    def add(self, step: "Step") -> None:
        """Appends what was chosen; at a stop id or the limit the draft is finished."""
        self.token_ids.append(step.token_id)
        self.logprobs.append(step.logprob)
        self.watched.append(step.watched)
        if step.token_id in self.request.stop_ids:
            self.finish_reason = FinishReason.STOP
        elif len(self.token_ids) == self.request.max_new_tokens:
            self.finish_reason = FinishReason.LENGTH

    @property
    def read_ids(self) -> Ids:
        """All that the model has read; the id chosen last is read only to choose another."""
        return (*self.request.prompt_ids, *self.token_ids[:-1])

    def completion(self) -> Completion:
        """The finished completion."""
        if self.finish_reason is None:
            raise ValueError("cannot close a completion that is still being written")
        return Completion(
            token_ids=tuple(self.token_ids),
            logprobs=np.array(self.logprobs),
            watched=np.stack(self.watched),
            finish_reason=self.finish_reason,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One decode step of one row: the id chosen and its log-probability, and those watched."""

    token_id: int
    logprob: float
    watched: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Row(Generic[S]):
    """What one row reads now, after the positions known; room is needed for `n_more` further.

    `watch_ids`: the ids whose log-probabilities are asked for afterwards.
    """

    known: Known[S]
    ids: Ids
    n_more: int = 0
    watch_ids: Ids = ()


@dataclass(frozen=True, slots=True)
class Next:
    """What a row in flight reads next: `ids`, after its first `n_read` positions.

    Positions beyond were guesses that did not hold.
    """

    row: int
    n_read: int
    ids: Ids


class Rows(Protocol[S_co]):
    """Prompts in flight, all of whose ids have been read."""

    def choose(self, drafts: Sequence[Draft]) -> list[list[Step]]:
        """What comes next in every row: after its last id, or after each id of a `Next`.

        Row i belongs to draft i.
        """
        ...

    def span(self, row: int, start: int, stop: int) -> S_co:
        """A copy of the state of some positions of one row."""
        ...


R = TypeVar("R", bound=Rows[Any])


class Model(Spans[S], Protocol[S, R]):
    """A language model that reads rows in passes. S: the state of a run of positions."""

    def read(self, rows: Sequence[Row[S]]) -> R:
        """One forward pass over the new ids of every row, at least one each."""
        ...

    def write(self, rows: R, steps: Sequence[Next]) -> R:
        """One decode step: some rows read the id that each just chose, and ids that are guessed."""
        ...


class Batcher(Generic[S, R]):
    """Greedy completions from a `Model`, in groups of rows.

    Where `share` is false every row is read on its own, from its first id: for a model whose state
    is not one of keys and values by position. `guess`: ids are guessed and verified, for a model
    whose `write` takes several ids a row.
    """

    def __init__(
        self,
        model: Model[S, R],
        *,
        name: str,
        max_context: int,
        max_batch: int,
        cache_bytes: int = CACHE_BYTES,
        share: bool = True,
        guess: bool = False,
    ) -> None:
        self._guesses = Guesses() if guess else None
        self._model: Model[S, R] | None = model
        self.name = name
        self.max_context = max_context
        self._max_batch = max_batch
        self._share = share
        self._cache: PrefixCache[S] = PrefixCache(model, max_bytes=cache_bytes if share else 0)

    def close(self) -> None:
        """Lets go of the model and of all states; closing twice is allowed."""
        self._model = None
        self._cache.clear()

    def forget(self) -> None:
        """Lets go of all states that later calls might continue."""
        self._cache.clear()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Greedy completions, in order. A request for one token costs no decode step.

        Raises `BadInput` for a prompt that leaves no room, and `EngineError` once closed.
        """
        if self._model is None:
            raise EngineError(
                f"cannot complete {len(requests)} prompts: {self.name} was closed; expected an "
                "engine in use, so open the model again"
            )
        for request in requests:
            require_room(request, self.max_context)
        for request in requests:
            self._cache.find(request.prompt_ids)  # what this call needs is evicted last
        completions: dict[int, Completion] = {}
        for group in groups([request.prompt_ids for request in requests], self._max_batch):
            wanted = [index for index in group if requests[index].is_wanted()]
            if wanted:
                completed = self._complete(self._model, [requests[index] for index in wanted])
                completions.update(zip(wanted, completed, strict=True))
        return [completions.get(n) or _nothing(request) for n, request in enumerate(requests)]

    def _complete(self, model: Model[S, R], requests: Sequence[Request]) -> list[Completion]:
        drafts = [Draft(request) for request in requests]
        known = self._read_common(model, [request.prompt_ids for request in requests])
        rows = model.read(
            [
                Row(
                    start,
                    request.prompt_ids[start.n :],
                    request.max_new_tokens,
                    request.watch_ids,
                )
                for start, request in zip(known, requests, strict=True)
            ]
        )
        texts = [self._guesses.row(d.request.prompt_ids) for d in drafts] if self._guesses else []
        writing = [(index, Ids()) for index in range(len(drafts))]  # with what was guessed
        while True:
            chosen = rows.choose([drafts[index] for index, _ in writing])
            steps = []
            for row, ((index, guess), after) in enumerate(zip(writing, chosen, strict=True)):
                draft = drafts[index]
                n_new = draft.take(after, guess)
                if not draft.request.is_wanted():
                    draft.finish_reason = FinishReason.LENGTH
                if draft.finish_reason is not None:
                    self._keep(rows, row, draft.read_ids)
                if texts:
                    texts[index].wrote(draft.token_ids[-n_new:])
                if draft.finish_reason is None:
                    n_left = draft.request.max_new_tokens - len(draft.token_ids) - 1
                    ahead = texts[index].next(n_left) if texts and n_left else ()
                    ids = (draft.token_ids[-1], *ahead)
                    steps.append((index, Next(row, len(draft.read_ids), ids)))
            if not steps:
                return [draft.completion() for draft in drafts]
            writing = [(index, step.ids[1:]) for index, step in steps]
            rows = model.write(rows, [step for _, step in steps])

    def _read_common(self, model: Model[S, R], prompts: Sequence[Ids]) -> list[Known[S]]:
        """What is known of every prompt once the beginnings that several share are read.

        Of every prompt at least the last id is left, as its logits are needed.
        """
        known: list[Known[S]] = [self._cache.find(prompt[:-1]) for prompt in prompts]
        if not self._share:
            return known
        while ends := common_starts(prompts, [start.n for start in known]):
            rows = model.read(
                [Row(known[first], prompts[first][known[first].n : end]) for first, _, end in ends]
            )
            for row, (first, last, end) in enumerate(ends):
                start = known[first]
                self._keep(rows, row, prompts[first][:end])
                longer = start.then(rows.span(row, start.n, end), end - start.n)
                known[first : last + 1] = [longer] * (last + 1 - first)
        return known

    def _keep(self, rows: R, row: int, ids: Ids) -> None:
        self._cache.add(ids, lambda start, stop: rows.span(row, start, stop))


def _nothing(request: Request) -> Completion:
    """Of what nobody wants any more."""
    return Completion(
        token_ids=(),
        logprobs=np.zeros(0),
        watched=np.zeros((0, len(request.watch_ids))),
        finish_reason=FinishReason.LENGTH,
    )


class BatchedEngine:
    """An `Engine` of this machine: what loads its model gives it a `Batcher`."""

    def __init__(self, batcher: Batcher[Any, Any], tokenizer: Tokenizer) -> None:
        self._batcher = batcher
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        return self._batcher.name

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        return self._batcher.max_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary this model reads."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        Raises `BadInput` for a prompt that leaves no room and `EngineError` when the back end
        fails or memory runs out.
        """
        return self._batcher.complete(requests)

    def close(self) -> None:
        """Lets go of the model and its memory; the engine cannot be used after."""
        self._batcher.close()


def half_of_cores() -> int:
    """Threads where more gain nothing: two threads of a core, and what others on it need."""
    try:
        n_usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        n_usable = os.cpu_count() or 1
    return max(1, n_usable // 2)


def greedy(
    logits: NDArray[np.float32], drafts: Sequence[Draft], n_each: Sequence[int]
) -> list[list[Step]]:
    """The most probable ids and the log-probabilities asked for, from `logits` (N, V).

    The first `n_each[0]` rows of them belong to the first draft, and so on.
    """
    chosen = logits.argmax(axis=-1)
    top = logits[np.arange(len(logits)), chosen]
    # Most of the time goes into exp over the vocabulary: in place, on one copy.
    powers = logits - top[:, None]
    np.exp(powers, out=powers)
    normalisers = top + np.log(powers.sum(axis=-1))
    return steps_of(
        chosen,
        top - normalisers,
        lambda rows, ids: logits[rows][:, ids] - normalisers[rows, None],
        drafts,
        n_each,
    )


def steps_of(
    chosen: NDArray[Any],
    logprobs: NDArray[np.float32],
    watched: Callable[[slice, list[int]], NDArray[np.float32]],
    drafts: Sequence[Draft],
    n_each: Sequence[int],
) -> list[list[Step]]:
    """Steps by draft. `watched(rows, ids)`: the log-probabilities of ids, (n_rows, n_ids), nats."""
    ends = list(accumulate(n_each))
    steps = []
    for draft, end, n in zip(drafts, ends, n_each, strict=True):
        rows = slice(end - n, end)
        seen = watched(rows, list(draft.request.watch_ids)).astype(np.float64)
        steps.append(
            [
                Step(int(token_id), float(logprob), row)
                for token_id, logprob, row in zip(chosen[rows], logprobs[rows], seen, strict=True)
            ]
        )
    return steps


def require_room(request: Request, max_context: int) -> None:
    """Raises `BadInput` for a prompt that is empty or leaves no room for its completion."""
    n_prompt, n_new = len(request.prompt_ids), request.max_new_tokens
    if n_prompt < 1 or n_new < 1:
        raise BadInput(
            f"cannot complete a prompt of {n_prompt} tokens by {n_new}: expected at least one "
            "of each, so ask something and raise max_new_tokens"
        )
    if n_new >= max_context:
        raise BadInput(
            f"cannot complete a prompt by {n_new} tokens: the model holds {max_context} in all, "
            "expected fewer and room for the prompt; lower max_new_tokens"
        )
    if n_prompt + n_new > max_context:
        raise BadInput(
            f"cannot complete a prompt of {n_prompt} tokens: the model holds {max_context}, of "
            f"which {n_new} are kept for the answer, so at most {max_context - n_new} are allowed; "
            "shorten the question or the passages, or lower max_new_tokens"
        )


def groups(prompts: Sequence[Ids], max_batch: int) -> list[list[int]]:
    """Indices of prompts to be read together, in the order of their trie."""
    made: list[list[int]] = []
    longest = 0
    for index in trie_order(prompts):
        longest = max(longest, len(prompts[index]))
        n_padded = longest * (len(made[-1]) + 1 if made else 0)
        if not made or len(made[-1]) >= max_batch or n_padded > MAX_PADDED_TOKENS:
            made.append([])
            longest = len(prompts[index])
        made[-1].append(index)
    return made


def trie_order(prompts: Sequence[Ids]) -> list[int]:
    """Indices such that prompts with a common beginning lie side by side.

    Where prompts part, the branch whose longest prompt is shorter comes first: rows of similar
    length waste less padding. Equal prompts keep their order.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    common = _common_lengths([prompts[index] for index in order])
    done: list[int] = []
    branches = [(0, len(order) - 1)] if order else []
    while branches:
        first, last = branches.pop()
        if first == last:
            done.append(order[first])
            continue
        parts = _parted(common, first, last, at=min(common[first:last]))
        parts.sort(key=lambda part: max(len(prompts[i]) for i in order[part[0] : part[1] + 1]))
        branches += reversed(parts)
    return done


def common_starts(prompts: Sequence[Ids], known: Sequence[int]) -> list[tuple[int, int, int]]:
    """The beginnings to read next, as (first row, last row, end), where rows lie in trie order.

    `known`: how many ids of every row are read already. Empty where reading beginnings first would
    save less than it costs.
    """
    common = _common_lengths(prompts)
    found: list[tuple[int, int, int]] = []
    branches = [(0, len(prompts) - 1)]
    while branches:
        first, last = branches.pop()
        if first >= last:
            continue
        end = min(common[first:last])
        if (last - first) * (end - known[first]) >= MIN_SAVED_TOKENS:
            found.append((first, last, end))
        else:
            branches += _parted(common, first, last, at=end)
    return found


def _common_lengths(prompts: Sequence[Ids]) -> list[int]:
    """How many ids each prompt shares with the next; each keeps at least one for itself."""
    return [min(common_length(a, b), len(a) - 1, len(b) - 1) for a, b in pairwise(prompts)]


def _parted(common: Sequence[int], first: int, last: int, *, at: int) -> list[tuple[int, int]]:
    """The runs of rows from `first` to `last` that have more than `at` ids in common."""
    cuts = [row for row in range(first, last) if common[row] == at]
    return list(zip([first, *(cut + 1 for cut in cuts)], [*cuts, last], strict=True))
