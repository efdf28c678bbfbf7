"""`models export`: a trained model for engines that read other files."""

from __future__ import annotations

from pathlib import Path

import typer

from constitutional.errors import ConfigError, nearest

FORMATS = ("gguf",)


def export_command(folder: Path, out: Path, file_format: str, kind: str) -> None:
    """Writes a model folder in another format, telling how far it is."""
    from constitutional.backends.gguf_export import export_gguf

    if file_format not in FORMATS:
        raise ConfigError(f"unknown format '{file_format}'{nearest(file_format, FORMATS)}: only gguf is written")
    if out.suffix != ".gguf":
        raise ConfigError(f"{out}: name the file so that it ends in .gguf: engines go by it")

    def progress(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            typer.echo(f"{done} of {total} tensors", err=True)

    export_gguf(folder, out, kind, progress)
    engines = (
        "llama.cpp and Ollama (openvino: takes --type f16)" if kind == "f32" else f"llama.cpp, Ollama, openvino:{out}"
    )
    typer.echo(f"wrote {out}, {out.stat().st_size / 1e6:.0f} MB, for {engines}")
