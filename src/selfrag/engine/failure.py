"""Why a model that was asked in words gave no answer, or none that can be read."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why there is no label. The first two were answered; the others never were."""

    MALFORMED = "malformed"  # no label in the text
    REFUSAL = "refusal"
    UNAUTHORISED = "unauthorised"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    UNREACHABLE = "unreachable"
    NONSENSE = "nonsense"  # not the response of such a server
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"
    NOT_ASKED = "not_asked"  # given up before this one's turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A question without an answer: it is not stored, so that a rerun asks again."""

    reason: Reason
    detail: str
