"""A run that `kill -9` ends goes on to the very weights of a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tiny_model import save_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from selfrag.errors import BadInput  # noqa: E402
from selfrag.train.checkpoints import last_complete, read_held_out  # noqa: E402
from selfrag.train.config import TrainConfig  # noqa: E402
from selfrag.train.examples import UNIFORM  # noqa: E402
from selfrag.train.run import train_from_file  # noqa: E402

# The process ends itself: after a step, or where a checkpoint is written but for its last file.
RUN_AND_DIE = """
import os, signal, sys
from selfrag.train import checkpoints
from selfrag.train.config import TrainConfig
from selfrag.train.examples import UNIFORM
from selfrag.train.run import train_from_file

base, data, out, where, n_epochs = sys.argv[1:]

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def after_step(self, args, state, control, **kwargs):
    if state.global_step == 5:
        die()

def close(checkpoint):
    if checkpoint.name == "checkpoint-4":
        die()
    whole(checkpoint)

if where == "step":
    checkpoints.HeldOutLosses.on_step_end = after_step
else:
    whole, checkpoints._close = checkpoints._close, close
config = TrainConfig(base=base, out=out, max_tokens=200, tokens_per_batch=200, save_steps=2,
                     learning_rate=1e-2, lora_rank=2, method=os.environ["METHOD"],
                     epochs=int(n_epochs))
train_from_file(__import__("pathlib").Path(data), config, UNIFORM)
"""


def config(base, out, **options):
    fields = {
        "max_tokens": 200,
        "tokens_per_batch": 200,
        "save_steps": 2,
        "learning_rate": 1e-2,
        "lora_rank": 2,
        "epochs": 2,
    }
    return TrainConfig(base=str(base), out=str(out), **{**fields, **options})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"), [])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [
        {
            "instruction": f"Question {i}?",
            "output": f"[No Retrieval]Answer {i}.[Utility:{i % 5 + 1}]",
        }
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def die_in_training(base, data, out, where, method):
    environment = {**os.environ, "METHOD": method}
    command = [sys.executable, "-c", RUN_AND_DIE, str(base), str(data), str(out), where, "2"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def weights(run):
    return load_file(next(Path(run).glob("*/*model.safetensors")))


@pytest.mark.parametrize(
    ("where", "method", "resumed_from"), [("step", "full", 4), ("save", "lora", 2)]
)
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(
    base, data, tmp_path, where, method, resumed_from
):
    train_from_file(data, config(base, tmp_path / "whole", method=method), UNIFORM)
    died = tmp_path / "died"
    die_in_training(base, data, died, where, method)
    assert last_complete(died / "checkpoints").name == f"checkpoint-{resumed_from}"
    train_from_file(data, config(base, died, method=method), UNIFORM)
    one, other = weights(tmp_path / "whole"), weights(died)
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    whole = read_held_out(tmp_path / "whole" / "held_out.jsonl")
    assert whole[-1]["step"] > 5
    assert read_held_out(died / "held_out.jsonl") == whole


def test_a_run_is_not_resumed_with_other_settings_or_data(base, data, tmp_path):
    train_from_file(data, config(base, tmp_path / "run"), UNIFORM)
    with pytest.raises(BadInput, match=r"learning_rate \(0\.01 there, 0\.02 now\)"):
        train_from_file(data, config(base, tmp_path / "run", learning_rate=2e-2), UNIFORM)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text() * 2)
    with pytest.raises(BadInput, match="cannot go on with the run"):
        train_from_file(other, config(base, tmp_path / "run"), UNIFORM)


def test_a_held_out_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "held_out.jsonl"
    path.write_text('{"step": 2, "text": 1.5}\n{"step": 4, "te')
    assert read_held_out(path) == [{"step": 2, "text": 1.5}]
