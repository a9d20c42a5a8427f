"""Checkpoints that a crash cannot spoil, and the held-out losses measured at each.

The Trainer writes a checkpoint in place; a file put in last tells a whole one from one that
`kill -9` cut short.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from selfrag import plots
from selfrag.errors import BadInput
from selfrag.files import AppendLog, complete_lines, fsync, write_rows
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.train.batches import Batch, token_losses

logger = logging.getLogger(__name__)

# Weights of language models stay far below; behind a norm even 1e30 gives a finite loss.
MAX_WEIGHT = 1e6

_COMPLETE = "complete"
HELD_OUT_FILE = "held_out.jsonl"
RUN_FILE = "run.json"
LOG_FILE = "log.json"


def last_complete(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end, if there is one."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=_step, reverse=True)
    for path in found:
        if (path / _COMPLETE).is_file():
            return path
        logger.warning("%s was cut short and is not used", path)
    return None


def drop_incomplete(checkpoints: Path) -> None:
    """Removes what a crash left half-written; of several processes the first one calls this."""
    for path in checkpoints.glob("checkpoint-*"):
        if not (path / _COMPLETE).is_file():
            shutil.rmtree(path, ignore_errors=True)


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def forget_after(run: Path, checkpoint: Path | None) -> None:
    """Takes held-out rows out that a resumed run will measure again."""
    path, last = run / HELD_OUT_FILE, _step(checkpoint) if checkpoint else 0
    if not path.is_file():
        return
    kept = [row for row in read_held_out(path) if row["step"] <= last]
    write_rows(path, kept, "held-out losses")


def read_held_out(path: Path) -> list[dict[str, Any]]:
    """The rows of a held-out file; a last line that a crash cut short is left out."""
    return [json.loads(line) for line in complete_lines(path)]


def plot_run(run: Path) -> Path:
    """Draws `curve.png` from `log.json` and `held_out.jsonl` of a run folder; its path."""
    log = [row for row in json.loads((run / LOG_FILE).read_text()) if "loss" in row]
    held = read_held_out(run / HELD_OUT_FILE)
    figure = plots.loss_figure(
        [(row["step"], float(row["loss"])) for row in log],
        {
            kind: [(row["step"], row[kind]) for row in held]
            for kind in sorted({key for row in held for key in row} - {"step"})
        },
    )
    return plots.save(figure, run / "curve.png")


def require_sound(tensors: Iterable[tuple[str, torch.Tensor]], doing: str) -> None:
    """Raises `BadInput` naming the first of the named `tensors` with a value that is no weight."""
    for name, tensor in tensors:
        own = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of FSDP: its share
        # NaN is under no bound either.
        if own.is_floating_point() and not (own.abs() < MAX_WEIGHT).all():
            raise BadInput(
                f"cannot {doing}: the weights {name} are not finite or beyond {MAX_WEIGHT:.0e}, so "
                "training has diverged; expected small numbers, so train again from the last good "
                "checkpoint or from the base, with a lower train.learning_rate"
            )


# Is told of the step, of all steps, and of the last mean loss in nats; None before the first.
OnStep = Callable[[int, int, float | None], None]


class HeldOutLosses(TrainerCallback):
    """At every save: closes the checkpoint, and adds a line with the held-out loss by kind.

    A checkpoint with a weight or a held-out loss that is not finite stays open, so that no run
    resumes from it, and the run stops.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        token_ids: Sequence[int],
        run: Path,
        on_step: OnStep = lambda step, total, loss: None,
    ) -> None:
        self.batches, self.run, self.on_step = batches, run, on_step
        self.loss: float | None = None
        tokens = REFLECTION_TOKENS if token_ids else ()
        self.kinds = {i: type(token).__name__ for i, token in zip(token_ids, tokens, strict=True)}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says where the run begins, as `on_step_end` does."""
        self._tell(state)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes the mean loss of the last steps."""
        loss = (kwargs.get("logs") or {}).get("loss")
        self.loss = self.loss if loss is None else float(loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says how far the run is, on the first process."""
        self._tell(state)

    def _tell(self, state: Any) -> None:
        if state.is_world_process_zero:
            self.on_step(state.global_step, state.max_steps, self.loss)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures on every process; the first one writes."""
        row = {"step": state.global_step, **held_out(kwargs["model"], self.batches, self.kinds)}
        learned = [(n, p) for n, p in kwargs["model"].named_parameters() if p.requires_grad]
        require_sound(learned, f"go on training after step {state.global_step}")
        if not np.isfinite(list(row.values())).all():
            raise diverged(state.global_step, f"the held-out losses are {row}")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its part
        if not state.is_world_process_zero:
            return
        with AppendLog(self.run / HELD_OUT_FILE, "held-out losses") as log:
            log.append([row])
        _close(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        logger.info("held out: %s", row)


def diverged(step: int, found: str) -> BadInput:
    """What is raised where a run cannot come to anything."""
    return BadInput(
        f"cannot go on training after step {step}: {found}, so training has diverged; expected "
        "finite numbers, so give the same command with a lower train.learning_rate and a new --out"
    )


def _close(checkpoint: Path) -> None:
    """Flushes the files of `checkpoint` to disk, then marks it complete."""
    fsync(checkpoint)
    (checkpoint / _COMPLETE).touch()


def held_out(model: Any, batches: Sequence[Batch], kinds: Mapping[int, str]) -> dict[str, float]:
    """Mean loss in nats by kind of token, on unseen trees; text is what is no reflection token."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    losses: dict[str, list[float]] = {}
    with torch.no_grad():
        for batch in batches:
            found = token_losses(model, {k: v.to(device) for k, v in batch.items()}).tolist()
            for target, loss in zip(batch["targets"].tolist(), found, strict=True):
                losses.setdefault(kinds.get(target, "text"), []).append(loss)
    model.train(was_training)
    return {kind: round(float(np.mean(values)), 4) for kind, values in sorted(losses.items())}
