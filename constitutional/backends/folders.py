"""What a model folder must hold, checked without opening it and without torch."""

from __future__ import annotations

from pathlib import Path

from constitutional.errors import BackendError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def is_hub_id(source: str | Path) -> bool:
    """True for what can only be a name on the model hub: no such path here, and at most OWNER/NAME."""
    text = str(source)
    return (
        isinstance(source, str)
        and not Path(text).exists()
        and text.count("/") <= 1
        and not text.startswith((".", "/", "~"))
        and not text.endswith("/")
        and "\\" not in text
    )


def check_model_folder(folder: str | Path, name: str) -> None:
    """Refuses a folder that cannot hold a model.

    Args:
        folder: the folder; need not exist.
        name: the spec it was asked for by, used in messages.

    Raises:
        BackendError: config, tokenizer or weights are missing; says which.
    """
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise BackendError(f"{name}: '{place}' is not a model folder (no config.json)")
    if not any((place / file).is_file() for file in TOKENIZERS):
        raise BackendError(f"{name}: model folder '{place}' has no tokenizer (no tokenizer.json)")
    if not any(file.is_file() for file in place.glob("*.safetensors")):
        raise BackendError(f"{name}: model folder '{place}' has no weights (no *.safetensors)")
