"""A tiny preference model that was never trained: random weights and a random head, saved as training saves one."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_model import save_tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from constitutional.training.folders import save_merged


def save_tiny_scorer(folder: Path, *, seed: int = 0, context: int = 256) -> Path:
    """Writes a one-label classifier; equal seeds give equal weights."""
    start = save_tiny_model(folder.parent / f".{folder.name}-start", seed=seed, context=context)
    torch.manual_seed(seed + 1000)
    network = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(start)
    network.config.pad_token_id = tokenizer.pad_token_id
    torch.nn.init.normal_(network.score.weight)
    folder.mkdir(parents=True, exist_ok=True)
    save_merged(network, tokenizer, folder)
    return folder
