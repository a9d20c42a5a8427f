"""What a server allows: of one request, of all at once, and to whom.

Knows nothing of HTTP messages.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from selfrag.decode.config import SearchConfig
from selfrag.errors import BadInput
from selfrag.serial import Positive, check_config, setting, value_from_text

TOKEN_VARIABLE = "SELFRAG_SERVE_TOKENS"
LIMIT_VARIABLE = "SELFRAG_SERVE_"  # and the name of the limit in capitals
MAX_PASSAGE_TOKENS, MAX_CHOICES = 2048, 100
MAX_GIVEN = 1000  # passages to compare a text with, of ten times `question_chars` together
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request and of all of them.

    A request that asks for more than `passages`, `beams`, `segments` or `segment_tokens` is
    refused, one that takes longer than `seconds` ends with what it has. `batch` questions are
    searched together; `queue` more wait, and further ones are answered 429.
    """

    request_kb: int = setting(4096, "Size of a request, uploads aside.", least=1)
    upload_mb: int = setting(64, "Size of an upload.", least=1)
    question_chars: int = setting(20_000, "Characters of a question, and of its history.", least=1)
    passages: int = setting(20, "Passages a segment that a request may ask for.", least=1)
    beams: int = setting(8, "Hypotheses kept that a request may ask for.", least=1)
    segments: int = setting(16, "Segments that a request may ask for.", least=1)
    segment_tokens: int = setting(512, "Tokens a segment that a request may ask for.", least=1)
    seconds: Positive = setting(120.0, "Time for one question, in the queue and after.")
    batch: int = setting(16, "Questions searched together.", least=1)
    queue: int = setting(
        256, "Questions that wait beside those of --batch; more are answered 429.", least=0
    )
    streams: int = setting(512, "Streams open at once; more are answered 429.", least=1)
    stop_seconds: int = setting(
        10, "Time that running requests get when the server stops.", least=0
    )

    def __post_init__(self) -> None:
        check_config(self, "limits", doing="serve")

    def with_environment(self, environ: Mapping[str, str], given: Mapping[str, str]) -> "Limits":
        """These limits with those of `SELFRAG_SERVE_<NAME>`, but for those that are `given`."""
        found = {}
        for each in fields(self):
            variable = LIMIT_VARIABLE + each.name.upper()
            if variable in environ and each.name not in given:
                found[each.name] = value_from_text(environ[variable], each.type, variable)
        return replace(self, **found)

    def check(self, config: SearchConfig) -> SearchConfig:
        """`config` within the limits, its time bounded; raises `BadInput` for a higher one."""
        return _checked_search(self, config)


@lru_cache(maxsize=256)  # most requests ask for the same
def _checked_search(limits: Limits, config: SearchConfig) -> SearchConfig:
    for name, asked, limit in (
        ("top_k", config.top_k, limits.passages),
        ("n_evidence", config.n_evidence, limits.passages),
        ("alternatives", config.alternatives or 0, limits.passages),
        ("beam_width", config.beam_width, limits.beams),
        ("max_segments", config.max_segments, limits.segments),
        ("max_new_tokens", config.max_new_tokens, limits.segment_tokens),
        ("max_passage_tokens", config.max_passage_tokens, MAX_PASSAGE_TOKENS),
        ("number of choices", len(config.choices), MAX_CHOICES),
    ):
        if asked > limit:
            raise BadInput(
                f"cannot answer with {name} {asked}: this server allows at most {limit}; ask for "
                "less, or have its limits raised"
            )
    return replace(config, max_seconds=min(limits.seconds, config.max_seconds or limits.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask: `tokens`, none for anybody, and the names under which the server is reached.

    `hosts` empty: any name, which is safe only where tokens are asked for.
    """

    tokens: tuple[str, ...] = ()
    hosts: tuple[str, ...] = LOOPBACK_NAMES

    @classmethod
    def of(
        cls,
        *,
        host: str,
        token_file: Path | None,
        environ: Mapping[str, str] = os.environ,
        names: tuple[str, ...] = (),
        is_open: bool = False,
    ) -> "Access":
        """Who may ask a server bound to `host`; tokens are those of the file and the environment.

        Raises `BadInput` for an address that others can reach where there is no token, unless it
        `is_open` on purpose.
        """
        tokens = tuple(dict.fromkeys((*_tokens_in(token_file), *_split(environ))))
        is_private = _is_loopback(host)
        if not is_private and not tokens and not is_open:
            raise BadInput(
                f"cannot serve on {host}: others can reach it and no token is set; expected one, "
                f"so give --token-file or {TOKEN_VARIABLE}, or say --open-to-anyone"
            )
        if not is_private and not names:
            return cls(tokens=tokens, hosts=())
        return cls(tokens=tokens, hosts=tuple(dict.fromkeys((*LOOPBACK_NAMES, host, *names))))


def _tokens_in(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read tokens from {path}: {error}; expected a text file with one token a line, "
            "so name another"
        ) from error
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise BadInput(
            f"cannot read tokens from {path}: it holds none; expected one a line, so write one"
        )
    return [_checked(each, str(path)) for each in found]


def _split(environ: Mapping[str, str]) -> list[str]:
    return [_checked(each, TOKEN_VARIABLE) for each in environ.get(TOKEN_VARIABLE, "").split()]


def _checked(token: str, place: str) -> str:
    if len(token) < 8 or not token.isascii() or not token.isprintable():
        raise BadInput(
            f"cannot use a token of {place}: found one of {len(token)} characters, expected at "
            "least 8, all of ASCII; make one with `openssl rand -hex 24`"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
