"""The rules of assembly: which passage and which tokens a sentence gets, from judgements.

`reference` follows the released code (AkariAsai/self-rag 1fcdc42, `postprocess_data.py`) with its
coins seeded and its bugs under names of their own; `paper` follows arXiv 2310.11511, section 3.2.2.
Knows nothing of how the judgements came about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from selfrag.annotate.judgement import Judgement
from selfrag.passage import Hit
from selfrag.reflection import Relevance, Support
from selfrag.serial import setting


class Rules(StrEnum):
    """Whose rules of assembly."""

    PAPER = "paper"
    REFERENCE = "reference"


class Bug(StrEnum):
    """What the released code does and did not mean to; each can be switched on by its name."""

    # A sentence for which no passage is left is dropped from the answer.
    DROP_SENTENCE = "drop_sentence"
    # A random place in the list of irrelevant passages is taken for a rank among all passages.
    IRRELEVANT_INDEX = "irrelevant_index"
    # The rubric with two answers: [Continue to Use Evidence] never comes up.
    NO_CONTINUE = "no_continue"


# Sets whose rows the switch `negative_samples` turns into examples of irrelevant passages.
NEGATIVE_SETS = ("nq", "asqa", "fever", "wow", "arc_easy", "obqa")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblyConfig:
    """`top_k` passages a sentence; `seed` fixes every coin, row by row.

    `bugs` and `negative_samples` belong to the reference rules.
    """

    rules: Rules = setting(Rules.PAPER, "Whose rules choose passages.")
    top_k: int = setting(5, "Passages a sentence.", "--top-k", "--ndocs")
    seed: int = setting(0, "Of every coin of the rules.", least=0)
    bugs: frozenset[Bug] = frozenset()
    negative_samples: bool = setting(
        False, "Reference rules: irrelevant passages only.", "--negative-samples"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One passage for one sentence as judged; `support` is asked where it is relevant."""

    hit: Hit
    relevance: Judgement
    support: Judgement | None = None

    @property
    def is_irrelevant(self) -> bool:
        """Judged irrelevant; a passage without a usable judgement is neither."""
        return self.relevance.label is Relevance.IRRELEVANT

    @property
    def supports(self) -> Support | None:
        """How far it supports the sentence, where it is relevant and that was said."""
        if self.relevance.label is not Relevance.RELEVANT or self.support is None:
            return None
        label = self.support.label
        return label if isinstance(label, Support) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The passage taken, and the rule that took it; `relabelled`: irrelevant by rule."""

    read: Read
    rule: str
    relabelled: bool = False

    @property
    def is_relevant(self) -> bool:
        """Whether the sentence is written as resting on the passage."""
        return not self.read.is_irrelevant and not self.relabelled


def choose(
    reads: Sequence[Read], dataset: str, config: AssemblyConfig, rng: np.random.Generator
) -> Choice | None:
    """The passage for one sentence of `reads` in rank order; None when there is none to take."""
    if config.rules is Rules.PAPER:
        return choose_paper(reads, rng)
    return choose_reference(reads, dataset, config, rng)


def choose_paper(reads: Sequence[Read], rng: np.random.Generator) -> Choice | None:
    """Full support before partial, the better rank first; else any passage, drawn."""
    for support in (Support.FULL, Support.PARTIAL):
        for read in reads:
            if read.supports is support:
                return Choice(read=read, rule=f"first_{support.name.lower()}")
    usable = [read for read in reads if read.is_irrelevant or read.supports]
    if not usable:
        return None
    return Choice(read=usable[int(rng.integers(len(usable)))], rule="any")


def choose_reference(
    reads: Sequence[Read], dataset: str, config: AssemblyConfig, rng: np.random.Generator
) -> Choice | None:
    """The released rules: buckets by support, coins for the weaker ones, irrelevant ones last.

    NQ and FEVER take an irrelevant passage whenever there is one.
    """
    full, partial, none = (
        [read for read in reads if read.supports is support] for support in Support
    )
    irrelevant = [read for read in reads if read.is_irrelevant]
    choice: tuple[Read | None, str]
    if full:
        choice = (full[0], "first_full")
        if dataset == "nq" and rng.random() > 0.75 and irrelevant:
            choice = (_random_irrelevant(reads, irrelevant, config, rng), "random_irrelevant")
    elif partial and rng.random() > 0.3:
        choice = (partial[0], "first_partial")
    elif not partial and none and rng.random() > 0.75:
        choice = (none[0], "first_none")
    else:
        choice = (_random_irrelevant(reads, irrelevant, config, rng), "random_irrelevant")
    if config.negative_samples:
        choice = (_random_irrelevant(reads, irrelevant, config, rng), "negative_samples")
    if dataset in ("nq", "fever") and irrelevant:
        choice = (_random_irrelevant(reads, irrelevant, config, rng), "always_irrelevant")
    read, rule = choice
    if read is not None and not (read.is_irrelevant or read.supports):
        read = None  # the index bug may hit a passage without a usable judgement
    if read is None and Bug.DROP_SENTENCE not in config.bugs:
        # Not in the released code, which drops the sentence here.
        read, rule = next(iter([*full, *partial, *none]), None), "best_left"
    if read is None:
        return None
    relabelling = dataset in ("nq", "fever", "wow") or config.negative_samples
    relabelled = relabelling and read.supports is Support.NONE
    return Choice(read=read, rule=rule, relabelled=relabelled)


def _random_irrelevant(
    reads: Sequence[Read],
    irrelevant: Sequence[Read],
    config: AssemblyConfig,
    rng: np.random.Generator,
) -> Read | None:
    if not irrelevant:
        return None
    index = int(rng.integers(len(irrelevant)))
    return reads[index] if Bug.IRRELEVANT_INDEX in config.bugs else irrelevant[index]
