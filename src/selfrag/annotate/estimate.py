"""What a run will ask, in calls, tokens and money, before anything is asked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfrag.annotate.judge import Judge
from selfrag.annotate.judgement import Case
from selfrag.annotate.report import Prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`calls` are to be made; `stored` answers cost nothing. Tokens are those of the calls."""

    calls: int
    stored: int
    prompt_tokens: int
    completion_tokens: int

    def sentence(self, prices: Prices) -> str:
        """The estimate in words, for people."""
        cost = prices.cost(self.prompt_tokens, self.completion_tokens)
        money = "no price given" if cost is None else f"cost about {cost:.4f}"
        return (
            f"{self.calls} calls to make, {self.stored} answers already there; about "
            f"{self.prompt_tokens} tokens to send and {self.completion_tokens} to receive, {money}"
        )


def estimate(judge: Judge, windows: Iterable[Sequence[Case]]) -> Estimate:
    """The calls for all cases that have no stored answer; no case may come in two windows."""
    n_cases, n_calls, n_prompt, n_completion = 0, 0, 0, 0
    for cases in windows:
        missing = judge.missing(cases)
        sizes = [judge.teacher.size(case) for case in missing]
        n_cases += len(cases)
        n_calls += len(missing)
        n_prompt += sum(size[0] for size in sizes)
        n_completion += sum(size[1] for size in sizes)
    return Estimate(
        calls=n_calls,
        stored=n_cases - n_calls,
        prompt_tokens=n_prompt,
        completion_tokens=n_completion,
    )
