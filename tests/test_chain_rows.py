"""What the generator of the chain learns from: few refusals, and some of the old mix."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "chain_rows.py"
NO = "This passage does not answer the question."
READ = "[Retrieval]<paragraph>T\nSome text.</paragraph>"
GOOD = f"{READ}[Relevant]Saturn: Titan orbits it.[Fully supported][Utility:5]"
BAD = f"{READ}[Irrelevant]Saturn: Titan orbits it.[Utility:5]"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("chain_rows", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(identity, output):
    return {"id": identity, "instruction": "Q?", "output": output}


@pytest.mark.parametrize(
    ("output", "taught"),
    [
        (GOOD, GOOD),
        ("[No Retrieval]A rhyme.[Utility:5]", "[No Retrieval]A rhyme.[Utility:5]"),
        (BAD, f"{READ}[Irrelevant]{NO}[Utility:1]"),
        (BAD + GOOD, f"{READ}[Irrelevant]{NO}[Utility:1]"),
        (GOOD + BAD, None),
    ],
)
def test_an_answer_from_an_irrelevant_passage_is_not_taught(script, output, taught):
    expected = None if taught is None else row("a", taught)
    assert script.as_taught(row("a", output)) == expected


def test_refusals_and_replayed_records_are_shares_of_the_rest(script, tmp_path, monkeypatch):
    annotated, records, out = (tmp_path / name for name in ("train", "records", "out"))
    rows = [row(f"good-{n}", GOOD) for n in range(10)] + [row(f"bad-{n}", BAD) for n in range(8)]
    annotated.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    old = [{"id": f"old-{n}"} for n in range(9)]
    records.write_text("".join(json.dumps(each) + "\n" for each in old), "utf-8")
    options = [annotated, records, out, "--refusals", "0.2", "--replay", "0.5"]
    monkeypatch.setattr(sys, "argv", ["chain_rows.py", *map(str, options)])
    script.main()
    written = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    ids = sorted(each["id"] for each in written)
    assert ids == sorted(
        [*(f"good-{n}" for n in range(10)), "bad-0", "bad-1", *(f"old-{n}" for n in range(6))]
    )
    assert [each["id"] for each in written] != ids
    first = out.read_bytes()
    script.main()
    assert out.read_bytes() == first
