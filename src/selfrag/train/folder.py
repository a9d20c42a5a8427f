"""From a run folder to a model folder that every engine opens: merged, with its card.

Knows nothing of training; it reads what a run wrote (docs/formats.md, "Run folder").
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from selfrag.engine.transformers import quiet_transformers
from selfrag.errors import BadInput
from selfrag.files import making_folder
from selfrag.train.checkpoints import HELD_OUT_FILE, RUN_FILE, read_held_out, require_sound
from selfrag.train.model import grow_model, grow_tokenizer, load_tokenizer, quiet_peft


class WeightType(StrEnum):
    """In what a model folder holds its weights; `base` is what the base has them in."""

    BASE = "base"
    FP32 = "float32"
    BF16 = "bfloat16"
    FP16 = "float16"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run says of itself: `run.json`, the last held-out losses, a critic's report."""

    settings: dict[str, Any]
    held_out: dict[str, Any]
    critic: dict[str, Any]


def export_run(run: Path, out: Path, weight_type: WeightType = WeightType.BASE) -> Path:
    """`out`, a Hugging Face folder with the final weights of `run` and a card, whole or absent.

    Raises `BadInput` where `run` is no finished run or `out` exists.
    """
    if out.exists():
        raise BadInput(f"cannot export to {out}: it exists; expected a new folder, so name another")
    facts = read_run(run)
    with quiet_transformers():
        model = _load_final(run, facts)
        tokenizer = load_tokenizer(str(run / "tokenizer"))
    require_sound(model.named_parameters(), f"export {run}")
    dtype = _dtype(weight_type, facts.settings["base"])
    model = model.to(dtype)
    require_sound(model.named_parameters(), f"export {run} as {dtype}")
    model.config.eos_token_id = tokenizer.eos_token_id
    # A base whose defaults sample cannot be saved with sampling switched off: engines are greedy.
    generation = model.generation_config
    generation.eos_token_id = tokenizer.eos_token_id
    generation.do_sample, generation.temperature, generation.top_p = False, None, None

    with (
        quiet_transformers(),
        making_folder(out, "the model folder", also=(SafetensorError,)) as folder,
    ):
        model.save_pretrained(folder, max_shard_size="10GB")
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(model_card(out.name, facts), encoding="utf-8")
    return out


def read_run(run: Path) -> RunFacts:
    """What `run` says of itself; raises `BadInput` where it is no run folder."""
    try:
        settings = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
        settings["base"], settings["method"]
        report = run / "critic.json"
        critic = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"cannot export {run}: {error!r}; expected a run folder of `selfrag train generator` "
            "or `selfrag train critic`, with run.json, so name one"
        ) from error
    held_out = read_held_out(run / HELD_OUT_FILE) if (run / HELD_OUT_FILE).is_file() else []
    return RunFacts(settings=settings, held_out=held_out[-1] if held_out else {}, critic=critic)


def _load_final(run: Path, facts: RunFacts) -> Any:
    """The model with its final weights, an adapter merged in."""
    if (run / "model").is_dir():
        return AutoModelForCausalLM.from_pretrained(run / "model")
    adapter = run / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise BadInput(
            f"cannot export {run}: it holds neither a model nor an adapter; expected a run that "
            "has come to its end, so give its `selfrag train` command again"
        )
    base = facts.settings["base"]
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot export {run}: its base {base} does not load; expected the folder that the run "
            "was trained from, so bring it back"
        ) from error
    tokenizer = load_tokenizer(base)
    if "labels" not in facts.settings or facts.settings["labels"] == "token":
        multiple_of = facts.settings.get("pad_vocabulary_to", 1)
        grow_model(model, tokenizer, grow_tokenizer(tokenizer), multiple_of=multiple_of)
    with quiet_peft():
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def _dtype(weight_type: WeightType, base: str) -> torch.dtype:
    name = str(weight_type)
    if weight_type is WeightType.BASE:
        try:
            config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            config = {}
        name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return getattr(torch, name)


def model_card(name: str, facts: RunFacts) -> str:
    """A model card in Markdown, of the run's own records and nothing else."""
    run = facts.settings
    kind = "critic" if "labels" in run else "generator"
    data = run.get("data", {})
    lines = [
        "---",
        "library_name: transformers",
        "tags: [self-rag]",
        "---",
        f"# {name}",
        "",
        f"A Self-RAG {kind}, trained from `{Path(run['base']).name}` with `selfrag train {kind}`. "
        "Its licence is that of the base model and of the training data.",
        "",
        "## Training",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {run[key]} |" for key in _CARD_SETTINGS if run.get(key) not in (None, "")),
        *(f"| rows {key} | {data[key]} |" for key in ("n_used", "n_rejected", "n_cut") if data),
    ]
    if facts.held_out:
        lines += [
            "",
            "## Held-out loss at the end, nats a token",
            "",
            "| tokens | loss |",
            "|---|---|",
        ]
        lines += [f"| {k} | {v} |" for k, v in facts.held_out.items() if k != "step"]
    if facts.critic:
        header = "| group | n | accuracy | most frequent label | macro F1 | calibration error |"
        lines += ["", "## Held-out labels", "", header, "|---|---|---|---|---|---|"]
        lines += [
            f"| {group} | {q['n']} | {q['accuracy']:.3f} | {q['majority']:.3f} | "
            f"{q['macro_f1']:.3f} | {q['ece']:.3f} |"
            for group, q in facts.critic["quality"].items()
        ]
    return "\n".join([*lines, ""])


_CARD_SETTINGS = (
    "method",
    "mask",
    "labels",
    "epochs",
    "tokens",
    "tokens_per_batch",
    "accumulation",
    "max_tokens",
    "max_steps",
    "learning_rate",
    "lora_rank",
    "lora_alpha",
    "seed",
    "data_sha256",
    "torch",
    "commit",
)
