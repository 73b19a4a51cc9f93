"""How each command is made small: what is added to it. All that the documents call has a row in one of these."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

NANO: Final = "--model nano --device cpu"
TRAINING: Final = "--rooms runs/train --validation runs/validation"
TUNING: Final = "--device cpu --workers 0 --epochs 1 --batch 64 --picture-steps 1"
STAGES: Final = (
    "--device cpu --precision 32-true --steps 1 --batch 6 --least-rooms 1 --validation-rooms 1 --minutes 1 "
    "--eager --render 1 --renderers 0 --render-samples 1 --most-rooms 64"
)

#: By the longest beginning that fits. Of an option that is given twice, the later one counts.
ADDED: Final = {
    "lumiply --help": "",
    "lumiply augment": "",
    "lumiply bench": "--quick --device cpu",
    "lumiply convert": "--device cpu --steps 2",
    "lumiply demo": "--port 0 --steps 1 --once",
    "lumiply doctor": "--port 0",
    "lumiply evaluate": "--no-lpips",
    "lumiply fetch": "",
    "lumiply relight": "--device cpu --steps 1",
    "lumiply serve": "--port 0 --host 127.0.0.1 --device cpu",
    "lumiply synth": "--count 1 --size 64 --samples 1 --no-denoise",
    "lumiply train adaptors": TUNING,
    "lumiply train crossattn": TUNING,
    "lumiply train mini": STAGES,
    "python -m benchmarks": "--quick --device cpu",
    "python -m benchmarks.cluster_throughput": f"{NANO} --seconds 1 --size 64 --replicas 1",
    "python -m benchmarks.caches": "--device cpu --quick --colors red",
    "python -m benchmarks.finetune_memory": "--device cpu --steps 1 --batch 1",
    "python -m benchmarks.finetune_memory --device": "--tiny --steps 1 --batch 1",
    "python -m benchmarks.forms": f"{NANO} --compile off --budget 0",
    "python -m benchmarks.forms --model nano": "--budget 8",
    "python -m benchmarks.fp8": "--device cpu --steps 1 --colors red",
    "python -m benchmarks.fp8 --model full": "--model mini --device cpu --steps 1 --colors red --products all",
    "python -m benchmarks.h200 --model nano": "--sizes 1 --budget 8",
    "python -m benchmarks.h200": f"{NANO} --compile off --budget 0 --out runs/toy",
    "python -m benchmarks.samplers": "--device cpu --quick --colors red --count 1",
    "python -m benchmarks.scaling": "--gpus 1 2 --jobs 300",
    # at a nano model's service times an hour holds too many jobs
    "python -m benchmarks.scaling --times": "--times seconds.json --gpus 1 2 --jobs 300",
    "python -m benchmarks.stream": f"{NANO} --requests 4 --steps 2 --loads 0.7",
    "python -m lumiply.evaluation.limits": "--count 1",
    "python -m lumiply.evaluation.noise": "--count 1",
    "python -m lumiply.evaluation.rooms": "--count 1 --steps 1",
    "python -m lumiply.settings_page": "",
    "python train_adaptors.py": TUNING,
    "python train_crossattn.py": TUNING,
    "python train_mini.py": STAGES,
}

#: What a sentence names by its first words, as a whole line.
WHOLE: Final = {
    "hf auth login": "hf auth login --help",
    "lumiply COMMAND --help": "lumiply relight --help",
    "lumiply synth": "lumiply synth --out runs/rooms",
    "lumiply train adaptors": "lumiply train adaptors --data data/adaptor --base mini --color red",
    "lumiply train mini": f"lumiply train mini refine {TRAINING}",
    "python train_adaptors.py": "python train_adaptors.py --data data/adaptor --base mini --color red",
    "python train_crossattn.py": "python train_crossattn.py --data data/crossattn --base mini",
    "python train_mini.py base": f"python train_mini.py base {TRAINING}",
}


@dataclass(frozen=True)
class Unrun:
    """Why a command is not run, and words of the page by which its reader knows.

    Attributes:
        parsed: whether its arguments are read by its own parser instead.
    """

    reason: str
    told: str
    parsed: bool = True


#: All that no test runs, by how it begins.
UNRUN: Final = {
    "python -m benchmarks.parity": Unrun("the full-size model, whose size is the point", "H200"),
    "python -m benchmarks.cluster_autoscaling": Unrun("Serve's own delays of ten minutes", "13 minutes"),
    "pip install lpips": Unrun("brings torchvision, from the network", "torchvision", parsed=False),
    "pip install open-clip-torch": Unrun("brings torchvision, from the network", "text tower", parsed=False),
    "kill -HUP": Unrun("the signal is sent by tests/engine/test_reload.py", "SIGHUP", parsed=False),
    "ngrok update": Unrun("another program's, fetched where a tunnel is wanted", "old agent", parsed=False),
}

#: What starts Ray, as processes: run by tests/cluster/test_documents.py.
WITH_RAY: Final = ("ray start", "serve deploy", "serve shutdown")


def row(line: str, table: Iterable[str]) -> str | None:
    """The longest key of the table with which the line begins, word for word."""
    words = shlex.split(line, comments=True)
    fits = [key for key in table if words[: len(key.split())] == key.split()]
    return max(fits, key=len, default=None)
