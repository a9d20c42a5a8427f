"""The recipe for many GPUs, on two CPU processes: sharded, killed, resumed, the same losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from selfrag.train.config import Method, TrainConfig, load_recipe, settings
from selfrag.train.examples import UNIFORM, LossWeights
from tiny_model import save_tiny_model

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize(("name", "max_tokens"), [("llama2-7b", 2048), ("llama2-13b", 1536)])
def test_the_recipes_of_the_paper_hold_its_settings(name, max_tokens):
    recipe = load_recipe(RECIPES / f"{name}.toml")
    config = settings(TrainConfig, "train", recipe, {"base": "b", "out": "o"})
    assert settings(LossWeights, "loss", recipe) == UNIFORM
    assert (config.method, config.epochs, config.max_tokens) == (Method.FULL, 3, max_tokens)
    assert (config.peak_learning_rate, config.warmup_share, config.weight_decay) == (2e-5, 0.03, 0)


@pytest.mark.parametrize(("name", "kind"), [("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_accelerate_reads_the_launch_recipes(name, kind):
    pytest.importorskip("accelerate")
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes) == (kind, 8)


def test_the_deepspeed_recipe_is_what_deepspeed_and_accelerate_read():
    yaml = pytest.importorskip("yaml")
    launch = yaml.safe_load((RECIPES / "zero3.yaml").read_text())
    path = RECIPES.parent / launch["deepspeed_config"]["deepspeed_config_file"]
    config = json.loads(path.read_text())
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    words = [f"Answer {i} {'long ' * (i % 4)}." for i in range(14)]
    made = [f"[No Retrieval]{word}[Utility:{i % 5 + 1}]" for i, word in enumerate(words)]
    rows = [{"instruction": f"Q {i}?", "output": output} for i, output in enumerate(made)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def launch_sharded(arguments):
    """Two processes under torchrun's agent, with what `accelerate launch` sets from the recipe."""
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((RECIPES / "fsdp2.yaml").read_text())
    shards = {key.upper(): str(value) for key, value in recipe["fsdp_config"].items()}
    environment = {**os.environ, **shards, "ACCELERATE_USE_FSDP": "true", "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "lo"  # the host name may lead to an address without a way
    worker = Path(__file__).parent / "sharded_worker.py"
    agent = ["torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    meeting = [f"--rdzv-backend={recipe['rdzv_backend']}", "--rdzv-endpoint=127.0.0.1:0"]
    command = [sys.executable, "-m", *agent, *meeting, str(worker), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def losses(run):
    rows = json.loads((run / "log.json").read_text())
    return {row["step"]: float(row["loss"]) for row in rows if "loss" in row}


def test_sharded_training_survives_a_kill_with_the_losses_of_one_process(data, tmp_path):
    pytest.importorskip("peft")
    from selfrag.train.run import train_from_file

    (tmp_path / "base").mkdir()
    base = save_tiny_model(tmp_path / "base", [])
    shared = {"max_tokens": 200, "tokens_per_batch": 250, "learning_rate": 1e-3, "epochs": 3}
    own = {**shared, "save_steps": 2, "log_steps": 1, "eval_batches": 1, "method": "full"}
    # One process that adds up two batches a step sees the steps of two processes.
    alone = TrainConfig(base=str(base), out=str(tmp_path / "one"), accumulation=2, **own)
    train_from_file(data, alone, UNIFORM)
    changes = [part for key, value in own.items() for part in ("--set", f"train.{key}={value}")]
    places = ["--model", str(base), "--data", str(data), "--out", str(tmp_path / "two")]
    ended = launch_sharded(["train", "generator", *places, *changes])
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "going on from" in ended.stderr
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(expected) > 4
    assert found == pytest.approx(expected, rel=1e-3)
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    assert max(abs(one[name] - two[name]).max() for name in one) < 1e-4
