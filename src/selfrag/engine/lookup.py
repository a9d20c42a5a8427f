"""Guesses how a text goes on: as it did where its last ids stood before.

Answers copy sentences of the passage that they read, so most guesses hold, and a model can verify
several ids in one pass with the result of reading them one by one (prompt lookup decoding, a form
of speculative decoding, arXiv 2211.17192, without a second model). Knows nothing of models.
"""

from collections.abc import Sequence

# An n-gram of this many ids tells well where a copy goes on; shorter ones are tried after.
_LONGEST = 3
# Verified ids cost as much as ids that are read: more of them only pay while guesses hold.
MAX_GUESS = 8
# N-grams of earlier completions that are remembered before all are forgotten.
_MAX_SHARED = 50_000

Ids = tuple[int, ...]


class Texts:
    """Sequences of ids, and what followed each n-gram in them last."""

    def __init__(self, *, shortest: int = 1) -> None:
        self._shortest = shortest
        self._after: dict[Ids, tuple[list[int], int]] = {}

    def __len__(self) -> int:
        return len(self._after)

    def extend(self, text: list[int], ids: Sequence[int]) -> None:
        """Appends `ids` to `text`, which is one sequence of these."""
        for token_id in ids:
            for n in range(self._shortest, min(_LONGEST, len(text)) + 1):
                self._after[tuple(text[-n:])] = (text, len(text))
            text.append(token_id)

    def after(self, end: Ids, n: int) -> Ids:
        """At most `n` ids that followed `end` where it stood last."""
        text, at = self._after.get(end, ([], 0))
        return tuple(text[at : at + n])


class Guesses:
    """Guesses for the rows of a batch, from what each has read and what all have written."""

    def __init__(self) -> None:
        self._shared = Texts(shortest=2)  # of other rows a single id tells too little

    def row(self, prompt_ids: Ids) -> "RowGuesses":
        """The guesses of one row."""
        if len(self._shared) > _MAX_SHARED:
            self._shared = Texts(shortest=2)
        return RowGuesses(prompt_ids, self._shared)


class RowGuesses:
    """Guesses for one row."""

    def __init__(self, prompt_ids: Ids, shared: Texts) -> None:
        self._shared = shared
        self._own = Texts()
        self._text: list[int] = []
        self._written: list[int] = []  # a sequence among the shared
        self._own.extend(self._text, prompt_ids)
        self._written.append(prompt_ids[-1])

    def wrote(self, ids: Sequence[int]) -> None:
        """What the row has written since the last call."""
        self._own.extend(self._text, ids)
        self._shared.extend(self._written, ids)

    def next(self, n: int) -> Ids:
        """At most `n` ids that may come next."""
        for length in range(_LONGEST, 0, -1):
            end = tuple(self._text[-length:])
            for texts in (self._own, self._shared):
                if guess := texts.after(end, min(n, MAX_GUESS)):
                    return guess
        return ()
