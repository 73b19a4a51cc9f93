"""Models without numbers: their names and shapes are wanted, and numbers come from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: What layers call to draw their first weights.
FILLS: Final = frozenset([Tensor.uniform_, Tensor.normal_, Tensor.zero_, Tensor.fill_])


class _Unfilled(TorchFunctionMode):
    """Within it nothing is filled: on the `meta` device that changes nothing, and took most of a model's making."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def described() -> Iterator[None]:
    """Modules made within have parameters on the `meta` device."""
    with torch.device("meta"), _Unfilled():
        yield
