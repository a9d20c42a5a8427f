"""The settings of one search; TOML table `[decode]`. Those that are not the paper's say so."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from selfrag.decode.calibration import Calibration
from selfrag.decode.choices import colliding
from selfrag.decode.gate import GateKind, GateRule, RetrievalMode
from selfrag.decode.node import PathScore
from selfrag.decode.score import ScoreWeights
from selfrag.errors import ConfigError
from selfrag.serial import Count, Positive, Share, check_config, setting
from selfrag.text import require_text

MAX_PASSAGES = 1000  # a segment is written from each: more would take hours
PassageCount = Annotated[int, Meta(ge=1, le=MAX_PASSAGES)]


class QueryPolicy(StrEnum):
    """What is searched for a later segment; the first one always searches the question."""

    QUESTION = "question"
    QUESTION_AND_SEGMENT = "question+segment"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Limits, weights and variants of one search.

    `threshold` in [0, 1], None decides by the emitted token; lengths in tokens; `max_new_tokens`
    bounds a segment. `n_evidence` above 1 adds a candidate that reads so many passages at once.
    `alternatives`: at most so many other answers are written from each relevant passage, 0 as in
    the paper, None as the model's calibration was fitted; without one, and with `choices`, none.
    `with_no_retrieval` lets a segment without a passage compete. `inline_passages` False builds
    prompts as the released long-form script does. `repeat` lets a path read a passage again and say
    a thing again, as in the paper; without it a path ends where nothing new is found or said.
    `join_relevance` in [0, 1]: an answer of several segments holds none from a passage whose
    relevance is lower, 0 as in the paper. Such a segment may still be an answer of its own.
    `drop_unsupported` takes segments judged [No support / Contradictory] out of the search.
    `prune_relevance` in [0, 1] drops a passage after one token when its relevance is lower.
    `max_seconds`, `max_tokens` (written) and `max_passages` (read) bound one question; None is no
    bound. `min_support` in [0, 1]: answers from passages with less are withheld. `min_probability`
    in [0, 1]: answers from passages that are less probable by the model's calibration, or of which
    it does not speak, are withheld. `choices`: the closed set that an answer comes from.
    """

    mode: RetrievalMode = setting(RetrievalMode.ADAPTIVE, "adaptive, always or never.")
    gate: GateKind = setting(GateKind.PAPER, "Which rule decides in mode adaptive.")
    threshold: Share | None = setting(
        0.2, "Retrieve above this probability; none: as the emitted token says."
    )
    top_k: PassageCount = setting(5, "Passages a segment.", "--top-k", "--ndocs")
    beam_width: Count = setting(2, "Hypotheses kept.", "--beam-width", "--beam_width")
    max_segments: Count = setting(6, "Segments at most; 1 is short form.")
    max_new_tokens: Count = setting(96, "Tokens a segment.", "--max-new-tokens", "--max_new_tokens")
    max_passage_tokens: Count = 512
    weights: ScoreWeights = field(default_factory=ScoreWeights)
    path_score: PathScore = setting(PathScore.SUM, "How segments make the score of a path.")
    query: QueryPolicy = setting(
        QueryPolicy.QUESTION_AND_SEGMENT, "What is searched for later segments."
    )
    n_evidence: Count = 1
    alternatives: Annotated[int, Meta(ge=0)] | None = None
    with_no_retrieval: bool = False
    inline_passages: bool = True
    repeat: bool = False
    join_relevance: Share = 0.86
    drop_unsupported: bool = setting(
        False, "No segment judged unsupported.", "--drop-unsupported", "--ignore_cont"
    )
    prune_relevance: Share | None = None
    max_seconds: Positive | None = setting(None, "Budget of time.")
    max_tokens: Count | None = setting(None, "Budget of tokens written.")
    max_passages: Count | None = setting(None, "Budget of passages read.")
    min_support: Share | None = setting(None, "Say nothing that is supported less.")
    min_probability: Share | None = setting(
        None, "Say nothing that is less likely to be right; see `selfrag calibrate`."
    )
    choices: tuple[str, ...] = setting((), "A closed set of answers, as in true,false.")

    def __post_init__(self) -> None:
        check_config(self, "decode", doing="search")
        for choice in self.choices:
            require_text(choice)
        if self.choices and (len(set(self.choices)) < 2 or not all(map(str.strip, self.choices))):
            raise ConfigError(
                f"cannot search: decode.choices is {list(self.choices)}, expected two or more "
                "different answers that are not empty; name them all"
            )
        if self.choices and self.min_probability is not None:
            raise ConfigError(
                "cannot search: decode.min_probability and decode.choices are both set, but a "
                "calibration does not speak of closed sets; expected one of them, so leave one out"
            )
        if alike := colliding(self.choices):
            raise ConfigError(
                f"cannot search: decode.choices has {alike[0]!r} and {alike[1]!r}, which read "
                "alike, because case and outer punctuation do not count; expected answers that a "
                "text can tell apart, so reword one"
            )

    @property
    def gate_rule(self) -> GateRule:
        """How the gate decides."""
        return GateRule(mode=self.mode, kind=self.gate, threshold=self.threshold)

    def n_alternatives(self, calibration: Calibration | None) -> int:
        """How many other answers a passage may give, by a model with this calibration."""
        if self.choices:
            return 0
        if self.alternatives is None:
            return calibration.alternatives if calibration else 0
        return self.alternatives
