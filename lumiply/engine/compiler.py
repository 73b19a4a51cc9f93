"""The process that compiles one part of a network and ends.

    python -m lumiply.engine.compiler PART OUT PARENT

reads a pickled part whose tensors are descriptions only, compiles it, runs it once on random numbers, so that what
crashes does not crash a server and launch configurations are chosen, and writes the folder `OUT`. It ends with the
process that asked for it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lumiply.engine.compiling import Part
from lumiply.engine.descriptions import CODE, FORM, Layout, Stands, state_of
from lumiply.engine.devices import settle_on
from lumiply.processes import end_with

#: By how much a compiler gives way to what serves.
NICENESS: Final = 10


class _Bound(nn.Module):
    """The part as a function of weights and inputs; itself it has no weights."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._held = [_Call(part)]  # in a list, where its weights are not found

    def forward(self, state: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        weights = {f"network.{name}": value for name, value in state.items()}
        return torch.func.functional_call(self._held[0], weights, inputs)


class _Call(nn.Module):
    def __init__(self, part: Part) -> None:
        super().__init__()
        self.network, self._method = part.network, part.method

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.network, self._method)(*inputs)


def compile_part(description: bytes, options: Mapping[str, Any], path: Path) -> None:
    """Write the folder `path`, whole or not at all; one that is there already stays."""
    from torch._inductor import standalone_compile
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.no_grad(), FakeTensorMode():
        part: Part = Stands(io.BytesIO(description)).load()
        inputs = part.resolved()
        state = state_of(part.network)
        program = torch.export.export(_Bound(part), (state, inputs), strict=False)
    used = drop_unused(program.graph_module, len(state))
    form = {
        "weights": [name for name, is_used in zip(state, used, strict=True) if is_used],
        "inputs": [Layout.of(tensor) for tensor in tree_leaves(inputs)],
        "is_list": program.call_spec.out_spec.num_children > 0,
    }
    weights = [state[name] for name in form["weights"]]
    tensors: list[Any] = [_random(tensor) for tensor in tree_leaves((weights, inputs))]
    settle_on(tensors[0].device)
    with torch.no_grad():
        compiled: Any = standalone_compile(
            program.graph_module,
            tensors,
            dynamic_shapes="from_example_inputs",
            options={"config_patches": dict(options)},
        )
        compiled(*tensors)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    unfinished = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    try:
        compiled.save(path=str(unfinished / CODE), format="binary")
        (unfinished / FORM).write_text(json.dumps(form))
        with contextlib.suppress(FileExistsError, OSError):
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def drop_unused(graph_module: torch.fx.GraphModule, count: int) -> list[bool]:
    """Take those of the graph's first `count` inputs that it does not use from it; which of them it does use."""
    places = [node for node in graph_module.graph.nodes if node.op == "placeholder"][:count]
    used = [bool(node.users) for node in places]
    for node, is_used in zip(places, used, strict=True):
        if not is_used:
            graph_module.graph.erase_node(node)
    graph_module.recompile()
    return used


def _random(like: Tensor) -> Tensor:
    tensor = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
    if not tensor.is_floating_point():
        return tensor.zero_()
    if tensor.itemsize == 1:  # float8, which is not drawn
        return tensor.copy_(torch.randn(like.shape, device=like.device))
    return tensor.normal_(0.0, 0.02)


def main(arguments: Sequence[str]) -> None:
    given, path, parent = arguments
    os.nice(NICENESS)
    end_with(int(parent))
    description, options = pickle.loads(Path(given).read_bytes())
    compile_part(description, options, Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # the compiler's own workers are not waited for
