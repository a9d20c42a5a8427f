"""What is said of work that takes long: a bar in a terminal, a line a minute in a log."""

import io
import logging
import os
import pty
import re
import sys
import threading
import tty
from contextlib import redirect_stderr

import pytest
import rich.progress
import typer

from selfrag.cli import app, console
from selfrag.cli.console import LogLines, Reporter, Terminal
from selfrag.progress import working


class Clock:
    """Seconds as the test sets them."""

    now = 0.0

    def __call__(self):
        return self.now


class Screen:
    """A pseudo-terminal in place of standard error, and what was written to it."""

    def __init__(self):
        self._master, slave = pty.openpty()
        tty.setraw(slave)  # else the line ends are changed on the way
        self.stream = os.fdopen(slave, "w")

    def written(self):
        self.stream.flush()
        os.set_blocking(self._master, False)
        found = b""
        while True:
            try:
                found += os.read(self._master, 65536)
            except BlockingIOError:
                return found.decode()

    def close(self):
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    found = Screen()
    yield found
    found.close()


def on(stream):
    """A console that writes to `stream`."""
    with redirect_stderr(stream):  # which a console looks at when it is made
        found = Terminal(stderr=True)
    found.file = stream
    return found


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    return io.StringIO()  # no terminal


def test_a_log_of_150_seconds_has_a_line_a_minute_and_a_last_one(log, clock):
    report = Reporter(on(log), clock=clock)
    for done in range(16):  # 10 seconds each
        clock.now = 10.0 * done
        report.progress("indexing", 1000 * done, 15_000)
    assert log.getvalue().splitlines() == [
        "indexing: 6,000 of 15,000 (40 %), 0:01:30 left",
        "indexing: 12,000 of 15,000 (80 %), 0:00:30 left",
        "indexing: 15,000 of 15,000 (100 %), 0:02:30 in all",
    ]


def test_a_log_says_nothing_of_what_is_over_within_a_minute(log, clock):
    report = Reporter(on(log), clock=clock)
    for label in ("reading", "indexing", "reading"):  # 150 seconds, none of them 60
        for done in range(6):
            clock.now += 8.0
            report.progress(label, done, 5)
    with working(report, "opening the model"):
        clock.now += 59.9
    assert log.getvalue() == ""


def test_time_remaining_is_that_of_this_run_alone(log, clock):
    report = Reporter(on(log), clock=clock)
    report.progress("answering", 100, 400)  # of an earlier run
    clock.now = 60.0
    report.progress("answering", 160, 400)  # one a second, 240 left
    assert log.getvalue().splitlines() == ["answering: 160 of 400 (40 %), 0:04:00 left"]


def test_work_of_unknown_length_tells_how_long_it_has_taken(log, clock):
    report = Reporter(on(log), clock=clock)
    with working(report, "counting the passages"):
        for done in (0, 30_000, 60_000):
            clock.now = done / 500
            report.progress("counting the passages", done, 0)
    assert log.getvalue().splitlines() == [
        "counting the passages: 30,000, 0:01:00 so far",
        "counting the passages: 60,000, 0:02:00 so far",
        "counting the passages: 60,000, 0:02:00 in all",
    ]


def test_what_is_broken_off_tells_how_far_it_came(log, clock):
    report = Reporter(on(log), clock=clock)
    for clock.now, done in ((0.0, 0), (90.0, 9), (95.0, 10)):
        report.progress("answering", done, 20, said=f"accuracy 0.500, {done} of 20")
    report.close()
    assert log.getvalue().splitlines() == [
        "answering: accuracy 0.500, 9 of 20 (45 %), 0:01:50 left",
        "answering: accuracy 0.500, 10 of 20 (50 %), 0:01:35 in all",
    ]


def test_a_line_comes_while_one_step_takes_longer(monkeypatch):
    told = threading.Event()

    class Heard(io.StringIO):
        def write(self, text):
            told.set()
            return super().write(text)

    heard = Heard()
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.001)
    report = Reporter(on(heard))
    report.progress("merging files", 0, 0)
    assert told.wait(30)
    report.close()
    assert heard.getvalue().startswith("merging files, 0:00:00 so far\n")


def test_a_log_has_no_control_characters_and_no_blank_lines(log, clock, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as build servers set it: colours, but no bars
    report = Reporter(on(log), clock=clock)
    for done in range(10):
        clock.now = 40.0 * done
        report.progress("a\x1b[2Jb\rc\nd", done, 10)
    report.close()
    lines = log.getvalue().splitlines()
    assert len(lines) == 5  # at 80, 160, 240 and 320 seconds, and in the end
    for line in lines:
        assert line.startswith("a\\x1b[2Jb\\rc\\nd: ")
        assert not re.search(r"[\x00-\x1f]", line)


def test_a_terminal_gets_a_bar_that_is_erased_in_the_end(screen, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    report = Reporter(on(screen.stream))
    report.progress("indexing", 0, 10)
    report.progress("indexing", 5, 10)
    print("an answer")  # noqa: T201 - as a command does it
    report.progress("indexing", 10, 10)
    written = screen.written()
    assert "indexing" in written
    assert "━" in written
    assert "100%" in written
    assert written.index("\x1b[?25l") < written.index("\x1b[?25h")  # the cursor is away, and back
    assert written.endswith("\x1b[2K")  # the line is empty
    assert "in all" not in written
    assert "an answer" not in written
    assert sys.stdout.getvalue() == "an answer\n"


@pytest.mark.parametrize("is_early", [False, True])
def test_ctrl_c_leaves_a_clean_terminal(screen, monkeypatch, is_early):
    terminal = on(screen.stream)
    start = rich.progress.Progress.start

    def interrupted(progress):
        start(progress)
        raise typer.Abort

    def command(**options):
        if is_early:  # just when the bar has been drawn
            monkeypatch.setattr(rich.progress.Progress, "start", interrupted)
        Reporter().progress("indexing", 1, 10)
        raise typer.Abort

    monkeypatch.setattr(app, "app", command)
    for module in (app, console):
        monkeypatch.setattr(module, "stderr", terminal)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 130
    *before, last = screen.written().split("\x1b[?25h")
    assert before
    assert last.endswith("selfrag: stopped on request; nothing half-written is left\n")
    assert "━" not in last


def test_two_who_report_share_the_one_bar_of_a_terminal(screen):
    terminal = on(screen.stream)
    Reporter(terminal).progress("reading", 1, 10)
    Reporter(terminal).progress("indexing", 1, 10)
    Reporter(terminal).close()
    assert terminal.under_way is None
    assert screen.written().count("\x1b[?25h") == 2


def test_log_records_are_lines_above_the_bar(screen):
    terminal = on(screen.stream)
    report = Reporter(terminal)
    report.progress("training", 1, 10)
    LogLines(terminal).emit(logging.makeLogRecord({"msg": "held out [1] %s", "args": (0.5,)}))
    report.close()
    assert "held out [1] 0.5\n" in screen.written()
