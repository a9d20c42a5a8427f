"""A Hugging Face NLI model as a judge; owns `torch` and `transformers` here.

Two kinds: classifiers with an entailment class, and T5 models that write `1` for `premise: …
hypothesis: …`, as TRUE (google/t5_xxl_true_nli_mixture, which ALCE judges with).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput, MissingPackage
from selfrag.evaluate.attribution import Claim

try:
    import torch
    import transformers

    from selfrag.engine.transformers import without_bars
except ImportError as error:
    raise MissingPackage(
        f"cannot start an NLI judge: {error}; it needs torch and transformers, "
        'so run `pip install "selfrag[engine]"`'
    ) from error

MAX_TOKENS = 2048  # of premise and hypothesis, where the model allows so many


class NliJudge:
    """The model in `path`, or of that name where a hub can be reached."""

    def __init__(self, path: str, *, device: str = "cpu", batch_size: int = 8) -> None:
        self.name = f"nli-{Path(path).name}"
        self._device = device
        self._batch_size = batch_size
        try:
            config = transformers.AutoConfig.from_pretrained(path)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            kind = (
                transformers.AutoModelForSeq2SeqLM
                if config.is_encoder_decoder
                else transformers.AutoModelForSequenceClassification
            )
            with without_bars():
                self._model = kind.from_pretrained(path).to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(
                f"cannot load the NLI model {path}: {error}; expected a folder with a sequence "
                "classifier or a T5 model, so name one"
            ) from error
        self._is_writer = bool(config.is_encoder_decoder)
        self._entailment = None if self._is_writer else _entailment_class(config, path)
        limit = int(getattr(self._tokenizer, "model_max_length", MAX_TOKENS))
        self._max_tokens = min(limit, MAX_TOKENS)

    def judge(self, claims: Sequence[Claim]) -> list[float]:
        """p(entailment) a claim."""
        found: list[float] = []
        for start in range(0, len(claims), self._batch_size):
            found += self._probabilities(claims[start : start + self._batch_size])
        return found

    def _probabilities(self, claims: Sequence[Claim]) -> list[float]:
        premises = [claim.premise for claim in claims]
        hypotheses = [claim.hypothesis for claim in claims]
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "truncation": True}
        with torch.inference_mode():
            if self._is_writer:
                texts = [
                    f"premise: {p} hypothesis: {h}"
                    for p, h in zip(premises, hypotheses, strict=True)
                ]
                batch = self._tokenizer(texts, max_length=self._max_tokens, **options)
                return self._written_ones(batch.to(self._device))
            # The premise gives way: a hypothesis cut short would be judged as another.
            options["truncation"] = "only_first"
            batch = self._tokenizer(premises, hypotheses, max_length=self._max_tokens, **options)
            logits = self._model(**batch.to(self._device)).logits
            probs = torch.softmax(logits.float(), dim=-1)[:, self._entailment]
            return [float(prob) for prob in probs]

    def _written_ones(self, batch: Any) -> list[float]:
        """p(1) against p(0) at the first token written."""
        start = torch.full(
            (len(batch["input_ids"]), 1), self._model.config.decoder_start_token_id
        ).to(self._device)
        logits = self._model(**batch, decoder_input_ids=start).logits[:, -1].float()
        ids = [self._tokenizer.encode(word, add_special_tokens=False)[-1] for word in ("1", "0")]
        probs = torch.softmax(logits[:, ids], dim=-1)[:, 0]
        return [float(prob) for prob in probs]


def _entailment_class(config: Any, path: str) -> int:
    for index, label in config.id2label.items():
        if str(label).lower().startswith("entail"):
            return int(index)
    raise BadInput(
        f"cannot judge with {path}: its classes are {list(config.id2label.values())}; expected one "
        "called entailment, so name another model"
    )
