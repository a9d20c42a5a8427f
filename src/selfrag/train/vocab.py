"""Growing a vocabulary by the reflection tokens.

New rows start as the mean of the rows of their own words, and are trained. The released generator
left them random (REFERENCE: `finetune.py`), and its LoRA option never trained them.
"""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfrag.reflection import REFLECTION_TOKENS


def add_reflection_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Adds the 15 tokens to `tokenizer` and rows for them to `model`, both in place; their ids.

    Tokens that the vocabulary already holds keep their rows, so a second call changes nothing.
    """
    vocabulary = tokenizer.get_vocab()
    new = [token.value for token in REFLECTION_TOKENS if token.value not in vocabulary]
    words = [tokenizer(_words(token), add_special_tokens=False).input_ids for token in new]
    tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
    new_ids = tokenizer.convert_tokens_to_ids(new)
    if max(new_ids, default=0) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for matrix in {model.get_input_embeddings(), model.get_output_embeddings()}:
        with torch.no_grad():
            for token_id, word_ids in zip(new_ids, words, strict=True):
                matrix.weight[token_id] = matrix.weight[word_ids].mean(dim=0)
    return list(tokenizer.convert_tokens_to_ids([token.value for token in REFLECTION_TOKENS]))


def _words(token: str) -> str:
    """`[Utility:5]` as ` Utility 5`: the words alone, as they occur inside text."""
    return " " + "".join(char if char.isalnum() else " " for char in token).strip()
