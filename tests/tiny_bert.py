"""A two-layer random BERT with a WordPiece vocabulary of a few words, made in every test run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import BertModel

WORDS = "the a moon of saturn is titan bread bakery sells early and query passage : . ?".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"bcdefghij", "##s", "##n"]


def save_tiny_bert(folder: Path, *, dim: int = 24, max_tokens: int = 64) -> "BertModel":
    """Writes config.json, model.safetensors and the tokenizer; returns the model."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=2 * dim,
        max_position_embeddings=max_tokens,
        initializer_range=0.5,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:  # else all 0 or 1: nothing would show
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": max_tokens})
    )
    return model
