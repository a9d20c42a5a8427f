"""The shapes of OpenAI's API: requests as they are read, answers as its clients read them.

Citations are told four ways at once: `[n]` in the text, annotations with offsets in it, `sources`
as Open WebUI shows them, and the object `selfrag` with all that is known. Knows nothing of HTTP.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgspec

from selfrag.decode.answer import Answer, build_answer, pages_to_json
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import FinishEvent, Usage
from selfrag.decode.gate import Gate
from selfrag.decode.node import Node
from selfrag.errors import BadInput
from selfrag.prompt import Turn
from selfrag.serial import Count
from selfrag.serve.schema import address_of, evidence, is_unsure

_MARKS = re.compile(r" (?:\[\d+\])+(?= |$)")
_IGNORED_ROLES = ("system", "developer")
# Fields that ask for a reply of another kind than a text from the passages, with the values by
# which they ask for nothing.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "text": ({}, {"format": None}, {"format": {"type": "text"}}),
    "modalities": ([], ["text"]),
    "audio": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "conversation": (),
    "prompt": (),  # of responses: a prompt kept by the server
}
_MAX_IGNORED = 20  # names of a request that its reply repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a message; text alone is read."""

    type: str
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation, or another item of an input, which is refused."""

    role: str = ""
    content: str | list[Part] | None = None
    type: str = "message"

    @property
    def text(self) -> str:
        """All of its text; raises `BadInput` for pictures and the like."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        odd = [part.type for part in self.content if part.type not in _TEXT_PARTS]
        if odd:
            raise _unreadable(f"a part of a message is {odd[0]!r:.40}", "text")
        return "\n".join(part.text or "" for part in self.content)


_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """What a stream tells beside its text."""

    include_usage: bool | None = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """`POST /v1/chat/completions`; `selfrag` holds settings of the search."""

    messages: list[Message]
    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    selfrag: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """`POST /v1/completions`: one prompt, which is the question."""

    prompt: str | list[str]
    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    max_tokens: Count | None = None
    selfrag: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRequest:
    """`POST /v1/responses`: a text, or the messages of a conversation."""

    input: str | list[Message]
    model: str = ""
    stream: bool | None = False
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Count | None = None
    selfrag: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with the turns before it; `ignored` names what the model has no place for."""

    question: str
    history: tuple[Turn, ...] = ()
    ignored: tuple[str, ...] = ()


def asked_in(messages: Sequence[Message]) -> Asked:
    """What a conversation asks: its last message, a user's; raises `BadInput` for another.

    Messages of a user in a row are one question. Instructions of the system are not read: the model
    was trained without any.
    """
    turns: list[Turn] = []
    asking: list[str] = []
    ignored: list[str] = []
    for message in messages:
        if message.type != "message":
            raise _unreadable(f"an item of the input is a {message.type!r:.40}", "messages")
        if message.role in _IGNORED_ROLES:
            ignored.append(f"{message.role} message")
        elif message.role == "user":
            asking.append(message.text)
        elif message.role == "assistant":
            if asking:
                answer = _MARKS.sub("", message.text)
                turns.append(Turn(question="\n".join(asking), answer=answer))
            asking = []
        else:
            raise _unreadable(
                f"a message has the role {message.role!r:.40}", "system, user or assistant"
            )
    if not asking:
        raise _unreadable("the last message is none of a user", "a question at the end")
    return Asked(question="\n".join(asking), history=tuple(turns), ignored=tuple(ignored))


def _unreadable(found: str, expected: str) -> BadInput:
    return BadInput(f"cannot answer: {found}; expected {expected}, so change it")


def unread_fields(kind: type, body: bytes) -> tuple[str, ...]:
    """Fields of the request in `body` that a `kind` does not have and that change no answer.

    Raises `BadInput` for one that asks for another kind of reply: a call of a tool, JSON, sound.
    """
    known = {each.name for each in fields(kind)}
    given: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    unread = []
    for name, value in given.items():
        if name in known or value is None or value in _PLAIN.get(name, ()):
            continue
        # Of `text` alone the format asks for another reply, and not what stands beside it.
        is_plain_text = name == "text" and isinstance(value, dict) and _has_plain_format(value)
        if name in _PLAIN and not is_plain_text:
            raise BadInput(
                f"cannot answer: {name} asks for another kind of reply; expected a question that a "
                f"text from the passages answers, so leave {name} out"
            )
        unread.append(name[:40])
    return tuple(unread[:_MAX_IGNORED])


def _has_plain_format(text: dict[str, Any]) -> bool:
    return {"format": text.get("format")} in _PLAIN["text"]


def require_one(n: int | None) -> None:
    """Raises `BadInput` where more than one answer is asked for."""
    if n not in (None, 1):
        raise _unreadable(f"n is {n}", "1, because the search has one answer")


def bounded(config: SearchConfig, max_tokens: int | None) -> SearchConfig:
    """`config` with an answer of at most `max_tokens` tokens."""
    if max_tokens is None:
        return config
    size = min(config.max_new_tokens, max_tokens)
    n_segments = max(1, min(config.max_segments, max_tokens // size))
    return replace(config, max_new_tokens=size, max_segments=n_segments)


def by_citation(answer: Answer) -> Answer:
    """The answer with its passages in the order in which they are first cited, others after."""
    n_passages = len(answer.passages)
    cited = [number for number in answer.citations if 1 <= number <= n_passages]
    order = [*cited, *(n for n in range(1, n_passages + 1) if n not in cited)]
    new = {number: place for place, number in enumerate(order, start=1)}
    claims = tuple(
        replace(each, citations=tuple(new[n] for n in each.citations)) for each in answer.conflict
    )
    segments = tuple(
        # Only what was retrieved for this question can be cited.
        replace(
            each,
            text=_unlinked(each.text),
            citations=tuple(new[n] for n in each.citations if n in new),
        )
        for each in answer.segments
    )
    passages = tuple(answer.passages[number - 1] for number in order)
    return replace(answer, segments=segments, passages=passages, conflict=claims)


def _unlinked(text: str) -> str:
    """The text without links and pictures, where it is read as Markdown.

    Clients read it so, and a picture that a passage made the model write would be fetched.
    """
    return text.replace("](", "]\\(").replace("![", "!\\[")


def partial_answer(question: str, nodes: Sequence[Node], gate: Gate) -> Answer:
    """What the segments that `nodes` end at come to so far."""
    finish = FinishEvent(question=0, best=nodes[-1], gate=gate, beam=(), usage=Usage())
    return by_citation(build_answer(question, finish))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer as OpenAI's clients read it; `answer` has its passages by citation."""

    answer: Answer
    text: str
    spans: tuple[tuple[int, int], ...]  # of each segment with its marks, in `text`
    links: tuple[tuple[str, str], ...]  # title and address of each passage, all different

    @classmethod
    def of(cls, answer: Answer) -> "Told":
        """The answer with its text, or the verdict where it has none."""
        answer = by_citation(answer)
        text = answer.cited_text
        spans: list[tuple[int, int]] = []
        end = 0
        for each in answer.segments:
            start = text.find(each.text, end) if each.text and not answer.choices_rated else -1
            if start >= 0:
                marks = "".join(f"[{number}]" for number in each.citations)
                end = start + len(f"{each.text} {marks}".strip())
            spans.append((start, end) if start >= 0 else (end, end))
        if not answer.text:
            text = answer.verdict[:1].upper() + answer.verdict[1:] + "."
        return cls(answer=answer, text=text, spans=tuple(spans), links=_links(answer))

    @property
    def finish_reason(self) -> str:
        """`length` where a limit ended the answer."""
        segments = self.answer.segments
        is_cut = bool(segments) and segments[-1].truncated
        return "length" if self.answer.stopped_by or is_cut else "stop"

    def annotations(self, *, is_flat: bool = False) -> list[dict[str, Any]]:
        """One for each citation of each segment: what it covers in the text, title and address.

        `is_flat`: as in the Responses API.
        """
        found: list[dict[str, Any]] = []
        for (start, end), segment in zip(self.spans, self.answer.segments, strict=True):
            for number in segment.citations if end > start else ():
                title, url = self.links[number - 1]
                place = {"start_index": start, "end_index": end, "title": title, "url": url}
                inner = place if is_flat else {"url_citation": place}
                found.append({"type": "url_citation", **inner})
        return found

    def sources(self) -> list[dict[str, Any]]:
        """The passages as Open WebUI shows them, in the order of their numbers."""
        return [
            {
                "source": {"name": title, "url": url},
                "document": [hit.passage.text],
                "metadata": [
                    {
                        "source": url,
                        "name": title,
                        "passage_id": hit.passage.id,
                        **pages_to_json(hit.passage),
                    }
                ],
            }
            for hit, (title, url) in zip(self.answer.passages, self.links, strict=True)
        ]

    def extension(self, ignored: Sequence[str] = ()) -> dict[str, Any]:
        """All that is known of the answer: see docs/server.md."""
        answer = self.answer
        segments = []
        for (start, end), segment in zip(self.spans, answer.segments, strict=True):
            scores = segment.scores
            segments.append(
                {
                    "text": segment.text,
                    "start_index": start,
                    "end_index": end,
                    "relevance": scores.relevance,
                    "support": scores.support,
                    "utility": scores.utility,
                    "truncated": segment.truncated,
                    "citations": evidence(segment, answer.passages),
                }
            )
        return {
            "segments": segments,
            "retrieved": answer.retrieved,
            "abstained": answer.abstained,
            "low_confidence": is_unsure(answer),
            "support": answer.support,
            "utility": answer.utility,
            "verdict": answer.verdict,
            "probability": answer.probability,
            "stopped_by": answer.stopped_by,
            "ignored": list(dict.fromkeys(ignored)),
        }


def _links(answer: Answer) -> tuple[tuple[str, str], ...]:
    """Title and address of every passage; a second of the same name is told apart.

    Clients that show sources merge those of one name or address, and would count wrongly.
    """
    found: list[tuple[str, str]] = []
    for number, hit in enumerate(answer.passages, start=1):
        title, url = hit.passage.title or hit.passage.id, address_of(hit.passage)
        if any(title == other for other, _ in found):
            title = f"{title} ({number})"
        if any(url == other for _, other in found):
            url = f"{url.partition('#')[0]}#{hit.passage.id}"
        found.append((title, url))
    return tuple(found)
