"""Parsers in a process of their own: what crashes, hangs or fills the memory is one file's fault.

The process is this module run as a program: a request a line on its input, a reply a line on its
output, both JSON. It is no protection against a file that takes a parser over.
"""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selfrag.errors import BadInput
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.parsed import Parsed
from selfrag.ingest.parsers import parse

_SECONDS_TO_END = 5.0
_REASON_CHARS = 200


class ParserProcess:
    """Parses one file after the other; started when first asked, and anew after a crash."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def parse(self, path: Path) -> Parsed:
        """As `parsers.parse`; raises `BadInput`, giving the reason alone, for every fault."""
        process = self._process = self._process or _start(self._options)
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(self._options.timeout_s, end)
        timer.start()
        try:
            reply = _ask(process, {"path": os.path.abspath(path), "options": asdict(self._options)})
        finally:
            timer.cancel()
            timer.join()
        if is_late.is_set() or not reply.endswith(b"\n"):
            code = self.close()
            raise BadInput(
                f"took more than the limit of {self._options.timeout_s:g} s"
                if is_late.is_set()
                else f"its parser crashed ({_exit_words(code)})"
            )
        return _parsed(json.loads(reply))

    def close(self) -> int:
        """Ends the process, if any; its exit code, negative for a signal."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            process.communicate(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode


def _start(options: ReadOptions) -> "subprocess.Popen[bytes]":
    # -P: no module of the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", "selfrag.ingest.sandbox", str(options.memory_mb)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _ask(process: "subprocess.Popen[bytes]", request: dict[str, Any]) -> bytes:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process has no pipes")
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return b""


def _parsed(reply: dict[str, Any]) -> Parsed:
    if "reason" in reply:
        raise BadInput(reply["reason"])
    return Parsed(
        title=reply["title"],
        text=reply["text"],
        page_starts=tuple(reply["page_starts"]),
        doubts=tuple(reply["doubts"]),
    )


def _exit_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def main() -> None:
    """Answers requests until the input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    memory_mb = int(sys.argv[1])
    _limit_memory(memory_mb << 20)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        reply = _reply(Path(request["path"]), ReadOptions(**request["options"]))
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _limit_memory(n_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def _reply(path: Path, options: ReadOptions) -> dict[str, Any]:
    try:
        return asdict(parse(path, options))
    except BadInput as error:
        return {"reason": str(error)}
    except MemoryError:
        return {"reason": f"takes more than the limit of {options.memory_mb} MB to parse"}
    except Exception as error:  # parsers raise what they like: here alone are all caught
        words = f"{type(error).__name__}: {error}".split()
        return {"reason": "its parser failed: " + " ".join(words)[:_REASON_CHARS]}


if __name__ == "__main__":
    main()
