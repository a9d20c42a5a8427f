"""What was published for the released weights, and whether a run agrees with it.

Self-RAG (arXiv 2310.11511), table 2, in percent there and as shares here.
"""

import math
from dataclasses import dataclass

from selfrag.errors import BadInput
from selfrag.evaluate.summary import Run
from selfrag.statistics import estimate

# task: metric of ours: share. ARC and PubHealth were counted by containment too.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "selfrag-7b": {
        "popqa": {"match_released": 0.549},
        "triviaqa": {"match_released": 0.664},
        "pubhealth": {"match_released": 0.724},
        "arc_challenge": {"match_released": 0.673},
        "asqa": {"str_em": 0.300, "rouge_lsum": 0.357},
    },
    "selfrag-13b": {
        "popqa": {"match_released": 0.558},
        "triviaqa": {"match_released": 0.693},
        "pubhealth": {"match_released": 0.745},
        "arc_challenge": {"match_released": 0.731},
        "asqa": {"str_em": 0.317, "rouge_lsum": 0.370},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One published number beside the measured one.

    `tolerance`: 1.96 standard errors of a share over so many questions, and a point for hardware
    and library versions.
    """

    task: str
    metric: str
    expected: float
    measured: float
    tolerance: float
    n: int

    @property
    def agrees(self) -> bool:
        """Whether the measured number is within the tolerance."""
        return abs(self.measured - self.expected) <= self.tolerance


def check_run(run: Run, system: str) -> list[Check]:
    """The published numbers of `system` for the task of `run`, each beside the measured one.

    Raises `BadInput` for a system or task without published numbers.
    """
    if system not in PUBLISHED:
        raise BadInput(
            f"cannot check against {system!r}: expected one of {', '.join(PUBLISHED)}, so name one"
        )
    expected = PUBLISHED[system].get(run.task)
    if expected is None:
        raise BadInput(
            f"cannot check {run.folder}: nothing is published for {run.task}; expected a run of "
            f"{', '.join(PUBLISHED[system])}, so name one"
        )
    checks = []
    for metric, share in expected.items():
        found = estimate(list(run.values.get(metric, {}).values()))
        error = math.sqrt(share * (1 - share) / max(found.n, 1))
        checks.append(
            Check(
                task=run.task,
                metric=metric,
                expected=share,
                measured=found.mean,
                tolerance=1.96 * error + 0.01,
                n=found.n,
            )
        )
    return checks
