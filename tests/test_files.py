import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag import files
from selfrag.errors import BadInput, StorageError
from selfrag.files import AppendLog

# Writes rows into the log that is its argument, and says so, until it is killed.
APPENDER = """
import sys
from pathlib import Path
from selfrag.files import AppendLog
with AppendLog(Path(sys.argv[1])) as log:
    n = len(log.lines())
    while True:
        log.append([{"n": n, "text": "x" * 5000}])
        n += 1
        print(n, flush=True)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), files.replacing(path) as partial:
        partial.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_changes_nothing(tmp_path):
    with files.replacing(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_not_part_of_the_next_file(tmp_path):
    (tmp_path / ".a.txt.partial").write_text("half")
    with files.replacing(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []
    (tmp_path / ".a.txt.partial").write_text("half")
    with files.replacing(tmp_path / "a.txt") as partial, partial.open("a") as file:
        file.write("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_link_stays_a_link_and_what_it_names_is_written(tmp_path):
    (tmp_path / "data").mkdir()
    target, link, second = tmp_path / "data" / "a.txt", tmp_path / "link", tmp_path / "second"
    target.write_text("old")
    link.symlink_to("data/a.txt")
    second.symlink_to(link)
    files.write_text(second, "new")
    assert target.read_text() == "new"
    assert link.is_symlink() and second.is_symlink()
    target.unlink()
    files.write_text(link, "made")  # a link to nothing yet
    assert target.read_text() == "made"
    assert names(tmp_path / "data") == ["a.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_the_mode_of_a_file_is_kept(tmp_path, mode):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    files.write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    files.write_text(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert files.write_rows(pipe, [{"a": 1}, {"a": 2}]) == 2
    reader.join()
    assert read == [b'{"a": 1}\n{"a": 2}\n']
    assert names(tmp_path) == ["pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_added_to_where_it_is(tmp_path, name):
    if name.startswith("/proc") and not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "import sys; from pathlib import Path; from selfrag.files import AppendLog, write_text\n"
        f"print('before'); write_text(Path({name!r}), 'text\\n')\n"
        f"with AppendLog(Path({name!r})) as log: log.append([1]); print('between'); log.append([2])"
    )
    with (tmp_path / "out").open("w+b") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, cwd=tmp_path)
    lines = (tmp_path / "out").read_text().split()
    assert lines[:3] == ["before", "text", "1"] and sorted(lines[3:]) == ["2", "between"]
    assert names(tmp_path) == ["link", "out"]


def test_a_file_made_read_only_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(StorageError, match="Permission denied"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_nothing_beside_it_is(
    tmp_path, monkeypatch
):
    path, synced = tmp_path / "a.txt", []
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "large").write_bytes(b"x")

    def sync(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    files.write_text(path, "new")
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_errors_of_writing_are_one_sentence(tmp_path):
    for path, why in (
        (tmp_path / "none" / "a", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(StorageError) as caught:
            files.write_text(path, "x", "answers")
        assert str(caught.value).startswith(f"cannot write answers to {path}: {why}; expected ")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError):
        files.write_text(tmp_path / "loop", "x")


def test_a_full_disk_is_a_storage_error_and_an_error_of_others_is_not(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(StorageError, match="No space left"), files.replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ConnectionResetError), files.replacing(path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(FileNotFoundError), files.replacing(path):
        (tmp_path / "other").read_text()
    with pytest.raises(TimeoutError), files.storage_errors("write"):
        raise TimeoutError
    with pytest.raises(StorageError, match=r"^cannot do it: lance says no; expected"):
        with files.storage_errors("do it", also=(RuntimeError,)):
            raise RuntimeError("lance says no")


def test_text_json_and_rows(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "é\ud800")
    assert path.read_bytes() == "é\\ud800".encode()
    files.write_json(path, {"b": 1, "a": [2]})
    assert path.read_text() == '{\n "b": 1,\n "a": [\n  2\n ]\n}\n'
    assert files.write_rows(path, iter([{"b": "é"}])) == 1
    assert path.read_text("utf-8") == '{"b": "é"}\n'
    assert files.file_sha256(path)[:8] == "048e86cd"
    with pytest.raises(BadInput, match=r"cannot read data from .*none"):
        files.file_sha256(tmp_path / "none")


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "model"
    with files.making_folder(out) as partial:
        (partial / "a").write_text("x")
        assert not out.exists()
    assert names(out) == ["a"] and names(out.parent) == ["model"]
    (tmp_path / "plain").mkdir()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(KeyError), files.making_folder(tmp_path / "other"):
        raise KeyError
    assert names(tmp_path) == ["deep", "plain"]


def test_of_two_processes_that_make_a_folder_the_first_wins(tmp_path):
    out = tmp_path / "model"
    with files.making_folder(out) as partial:
        (partial / "a").write_text("second")
        out.mkdir()
        (out / "a").write_text("first")
    assert (out / "a").read_text() == "first"
    assert names(tmp_path) == ["model"]


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path):
    (tmp_path / "model").write_text("x")
    for out in (tmp_path / "model", tmp_path / "model" / "out"):
        with pytest.raises(StorageError, match="cannot write a model to"):
            with files.making_folder(out, "a model"):
                pass
    with pytest.raises(StorageError, match="no memory"):
        with files.making_folder(tmp_path / "out", also=(RuntimeError,)):
            raise RuntimeError("no memory")
    assert names(tmp_path) == ["model"]


def test_rows_are_added_after_those_that_are_there(tmp_path):
    path = tmp_path / "log"
    with AppendLog(path) as log:
        assert log.is_empty and log.lines() == []
        log.append([{"a": 1}, {"a": "é"}])
        assert not log.is_empty
    with AppendLog(path) as log:
        log.append([{"a": 3}])
        log.append([])
        assert [json.loads(line)["a"] for line in log.lines()] == [1, "é", 3]
    assert path.read_bytes() == '{"a": 1}\n{"a": "é"}\n{"a": 3}\n'.encode()
    assert files.complete_lines(path) == path.read_bytes().splitlines()
    assert files.complete_lines(tmp_path / "none") == []


@settings(deadline=None)
@given(st.integers(0, 45), st.booleans())
def test_a_truncated_line_never_joins_the_next_row(tmp_path_factory, n_bytes, look_first):
    # Rows of 12 bytes each: as many are left as were complete, with or without their line end.
    path = tmp_path_factory.mktemp("log") / "log"
    rows = [{"a": "é", "n": n} for n in range(3)]
    files.write_rows(path, rows)
    content = path.read_bytes()[:n_bytes]
    path.write_bytes(content)
    n_left = len([line for line in content.split(b"\n") if line.endswith(b"}")])
    assert [json.loads(line) for line in files.complete_lines(path)] == rows[:n_left]
    with AppendLog(path) as log:
        if look_first:
            assert [json.loads(line) for line in log.lines()] == rows[:n_left]
        log.append([{"new": 1}])
        assert [json.loads(line) for line in log.lines()] == [*rows[:n_left], {"new": 1}]
    assert path.read_bytes().count(b"\n") == n_left + 1


def test_a_long_truncated_line_is_found_from_its_end(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    with AppendLog(path) as log:
        log.append([{"a": 2}])
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_zeros_after_a_power_cut_go(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"a": 1}\n' + b"\0" * 50)
    with AppendLog(path) as log:
        log.append([{"a": 2}])
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\nwithout an end")
    with (
        AppendLog(path, "events") as log,
        pytest.raises(BadInput, match="its last line, b'without"),
    ):
        log.append([{"a": 2}])
    assert path.read_text() == "my notes\nwithout an end"


def test_rows_after_the_first_ones_are_removed(tmp_path):
    path = tmp_path / "log"
    with AppendLog(path) as log:
        log.append([{"n": n} for n in range(5)])
        log.keep(2)
        assert len(log.lines()) == 2
        log.append([{"n": 7}])
        log.keep(9)
        assert [json.loads(line)["n"] for line in log.lines()] == [0, 1, 7]
        log.keep(0)
        assert log.is_empty
    path.write_bytes(b'{"n": 0}\n{"n": 1}')
    with AppendLog(path) as log:
        log.keep(2)
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n'
    path.write_bytes(b'{"n": 0}\n{"n": ')
    with AppendLog(path) as log:
        log.keep(2)
    assert path.read_bytes() == b'{"n": 0}\n'


def test_rows_that_the_disk_refuses_leave_none_of_them(tmp_path, monkeypatch):
    path = tmp_path / "log"
    with AppendLog(path) as log:
        log.append([{"n": 1}])

        def full(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"cannot write rows to .*No space left"):
            log.append([{"n": 2}])
    assert path.read_bytes() == b'{"n": 1}\n'


def test_a_log_is_written_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "log"
    with AppendLog(path), pytest.raises(BadInput, match="another process is writing it"):
        AppendLog(path)
    (tmp_path / "link").symlink_to(path)
    with AppendLog(tmp_path / "link"), pytest.raises(BadInput):
        AppendLog(path)
    AppendLog(path).close()


def test_a_killed_writer_leaves_complete_rows_and_no_lock(tmp_path):
    path = tmp_path / "log"
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(20):
            told = int(child.stdout.readline())
        child.kill()
        child.communicate()
        numbers = [json.loads(line)["n"] for line in files.complete_lines(path)]
        assert numbers == list(range(len(numbers))) and len(numbers) >= told


def test_a_folder_is_locked_within_and_a_file_beside(tmp_path):
    with files.locked(tmp_path):
        with pytest.raises(BadInput, match="wait for that one"), files.locked(tmp_path):
            pass
        with files.locked(tmp_path / "a"):
            pass
    assert names(tmp_path) == [".a.lock", ".lock"]
    with files.locked(tmp_path):
        pass
    with pytest.raises(StorageError, match="cannot lock"), files.locked(tmp_path / "none" / "a"):
        pass


def test_a_file_system_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(lock):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.filelock.FileLock, "__enter__", refuse)
    with files.locked(tmp_path):
        assert "write it from one process only" in caplog.text


def test_a_run_goes_on_with_the_same_facts_only(tmp_path):
    path = tmp_path / "run" / "config.json"
    files.claim_run(path, {"a": 1, "b": {"c": (1, 2)}}, has_results=False)
    assert json.loads(path.read_text()) == {"a": 1, "b": {"c": [1, 2]}}
    files.claim_run(path, {"b": {"c": [1, 2]}, "a": 1}, has_results=True)
    with pytest.raises(BadInput) as caught:
        files.claim_run(path, {"a": 1, "b": {"c": [1, 3]}, "d": 4}, has_results=True)
    said = "it differs in b.c ([1, 2] there, [1, 3] now); d (None there, 4 now); expected"
    assert said in str(caught.value)
    files.claim_run(path, {"a": 2, "b": {"c": [1, 2]}}, has_results=True, free={"a"})
    files.claim_run(path, {"a": 2}, has_results=False)  # without results it is a new run
    assert json.loads(path.read_text()) == {"a": 2}


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\xff", b"{"])
def test_results_of_nobody_are_not_gone_on_with(tmp_path, content):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"found results there, but no valid config\.json"):
        files.claim_run(path, {}, has_results=True)


def test_outputs_that_cannot_be_meant_are_refused(tmp_path):
    data, other = tmp_path / "data", tmp_path / "other"
    data.write_text("x")
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(data)
    hard.hardlink_to(data)
    for out in (data, link, hard, tmp_path / "." / "data"):
        with pytest.raises(BadInput, match="is the file --data, which is read"):
            files.check_outputs({"--out": out}, {"--data": data})
    with pytest.raises(BadInput, match=r"--trace .* is the file --out, which is written too"):
        files.check_outputs({"--out": other, "--trace": tmp_path / "." / "other"})
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="which is written too"):
        files.check_outputs({"--out": other, "--trace": tmp_path / "elsewhere" / "other"})
    with pytest.raises(BadInput, match="it is a folder"):
        files.check_outputs({"--out": tmp_path})
    with pytest.raises(BadInput, match="there is no folder"):
        files.check_outputs({"--out": tmp_path / "none" / "a"})
    files.check_outputs(
        {"--out": other, "--trace": tmp_path / "t", "--plot": None}, {"--data": data, "--x": None}
    )
    files.check_outputs({"--out": Path(os.devnull), "--trace": Path(os.devnull)})
