"""A device that is not the processor: its tensors must not be mixed with the processor's, as on a GPU.

Its memory is the processor's, and its arithmetic too, so what a model computes there is known; but a tensor that was
made in the wrong place, or never moved, is an error here as it is on a GPU. It says nothing of a GPU's rounding,
kernels or speed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"

COPIES = {"copy_", "_copy_from", "_to_copy"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""By indices from anywhere, which stand in a list; what is indexed, and what is put there, must be of the device."""


class Pretend(torch.Tensor):
    """A tensor of the device; `host` holds its numbers."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> Pretend:
        shape: dict[str, Any] = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        with torch.inference_mode(False):  # a view in inference mode of what was made outside must not be marked
            made = torch.Tensor._make_wrapper_subclass(cls, host.shape, dtype=host.dtype, device=NAME, **shape)
        made.host = host
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()  # who saves weights asks which of them are the same

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["host"], None  # has torch move weights in place, so that what is tied stays tied

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], *_: Any) -> Pretend:
        return Pretend(parts["host"])

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, *args, **(kwargs or {}))


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs an operation on the processor, after a check that it may be asked for on the device."""
    name = op._schema.name.removeprefix("aten::")
    leaves = tree_leaves((args, kwargs))
    given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    together = [arg for arg in args if isinstance(arg, torch.Tensor)] if name in INDEXING else given
    # numbers in tensors without dimensions may come from anywhere
    if name not in COPIES and any(not isinstance(tensor, Pretend) and tensor.dim() for tensor in together):
        raise RuntimeError(f"{op}: expected all tensors to be on the same device")
    if name == "_copy_from":  # from or to the device
        _host(args[1]).copy_(_host(args[0]))
        return args[1]
    goal = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    args, kwargs = tree_map(_host, (args, kwargs))
    out = op(*args, **kwargs)
    if (goal is not None and goal.type == "cpu") or name == "_local_scalar_dense":
        return out
    own = {id(_host(tensor)): tensor for tensor in given}  # what was changed in place stays the tensor it was

    def back(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        return own[id(one)] if id(one) in own else Pretend(one)

    return tree_map(back, out)


def _host(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.host if isinstance(value, Pretend) else value


class _Module(backend_registration._DummyBackendModule):
    def is_available(self) -> bool:
        return False  # or else other tests of this process would be told that there is an accelerator


class _Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return False


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())
_library = torch.library.Library("aten", "IMPL")
_aten = torch.ops.aten
for _op in (_aten.empty.memory_format, _aten.empty_strided.default, _aten._copy_from.default):  # what tensors begin as
    _library.impl(_op.name().removeprefix("aten::"), partial(_run, _op), "PrivateUse1")
