"""Without an extra: questions over given passages are answered, the rest names its extra."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_model import TOKENS, save_tiny_model

TESTS = Path(__file__).parent


def run_all(commands, folder):
    """Exit code, output and errors of each, in one process without the packages of extras."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(TESTS / "core_only.py")],
        input=json.dumps(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: passages, and files that extras read."""
    folder = tmp_path_factory.mktemp("core")
    passages = [{"title": "Titan", "text": "Titan is the largest moon of the planet Saturn."}]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages))
    row = {"question": "Where?", "answers": ["Saturn"], "ctxs": passages}
    (folder / "q.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "q.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    (folder / "a.pdf").write_bytes(b"%PDF-1.4\n")
    (folder / "m.gguf").write_bytes(b"GGUF")
    (folder / ".git").mkdir()  # a file that is named is read whatever stands in `.gitignore`
    (folder / ".gitignore").write_text("*.log\n")
    return folder


@pytest.fixture(scope="module")
def with_model(folder):
    """The same with a tiny model, which torch makes."""
    pytest.importorskip("torch")
    (folder / "model").mkdir()
    save_tiny_model(folder / "model", TOKENS)
    return folder


@pytest.mark.real
def test_the_default_weights_answer_over_given_passages(folder):
    ask = ["ask", "Which planet has the moon Titan?", "--passages", "p.jsonl", "--json"]
    ((code, out, err),) = run_all([ask], folder)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert "Saturn" in answer["answer"] and answer["index"] == "p.jsonl"
    assert [each["title"] for each in answer["passages"]] == ["Titan"]
    assert answer["segments"][0]["citations"] == [1]


def test_a_model_folder_needs_no_extra(with_model):
    small = ["--set", "max_new_tokens=8", "--set", "max_passage_tokens=64"]
    commands = [
        ["ask", "Where?", "--passages", "p.jsonl", "--trace", "t.jsonl", *small],
        ["check", "p.jsonl", "--passages", "p.jsonl"],
        ["batch", "q.jsonl", "--out", "o.jsonl", *small],
        ["doctor"],
    ]
    for code, out, err in run_all([[*each, "--model", "model"] for each in commands], with_model):
        assert code == 0, err
        assert out


READ = ("ask", "Where?", "--passages", "p.jsonl")
NEED_AN_EXTRA = [
    ("retrieval", ("ask", "Where?", "--model", "model")),
    ("s3", ("ask", "Where?", "--model", "model", "--index", "s3://bucket/index")),
    ("retrieval", ("index", "build", "p.jsonl", "--out", "index")),
    ("retrieval", ("search", "Where?")),
    ("retrieval", ("demo",)),
    ("retrieval", ("retrieve", "--data", "q.jsonl", "--out", "found.jsonl")),
    ("retrieval", ("embed", "--passages", "p.jsonl", "--out", "shards")),
    ("postgres", ("search", "Where?", "--index", "postgresql://localhost/db")),
    ("serve", ("serve",)),
    ("mcp", ("mcp",)),
    ("engine", (*READ, "--model", "model", "--device", "cuda")),
    ("cpu", (*READ, "--model", "model", "--engine", "openvino")),
    ("vllm", (*READ, "--model", "model", "--engine", "vllm")),
    ("gguf", (*READ, "--model", "m.gguf")),
    ("api", (*READ, "--model", "http://localhost:9")),
    ("api", (*READ, "--writer", "http://localhost:9/v1#m")),
    ("documents", ("ask", "Where?", "--passages", "a.pdf", "--model", "model")),
    ("train", ("train", "generator", "--data=q.jsonl", "--model=model", "--out=run")),
    ("train", ("export", "run", "--out", "merged")),
    ("eval", ("batch", "q.jsonl.zst", "--out", "o.jsonl", "--model", "model")),
]


def test_what_needs_an_extra_names_it_in_one_sentence(with_model):
    found = run_all([arguments for _, arguments in NEED_AN_EXTRA], with_model)
    for (extra, arguments), (code, out, err) in zip(NEED_AN_EXTRA, found, strict=True):
        # A document without its reader is one that cannot be used.
        assert code == (2 if extra == "documents" else 1) and not out, (arguments, err)
        assert err.startswith("selfrag: cannot ") and err.count("\n") == 1, (arguments, err)
        assert f'pip install "selfrag[{extra}]"' in err, (arguments, err)
        if arguments[:2] == ("index", "build"):
            assert err.startswith("selfrag: cannot build the index") and "passages" not in err
