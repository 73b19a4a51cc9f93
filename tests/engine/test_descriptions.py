"""What is compiled is described alike at every start, and without its numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from lumiply.engine.compiling import Part
from lumiply.engine.descriptions import Layout, describe
from tests.engine.toy import Toy, images


def test_a_description_is_the_same_for_the_same_architecture_and_holds_no_numbers():
    described = [describe(Part(Toy(seed), "encode", (images(2),))) for seed in (0, 1)]
    assert described[0] == described[1]
    assert described[0] != describe(Part(Toy(), "encode", (images(3),)))
    assert described[0] != describe(Part(Toy(), "encode", (images(2).contiguous(),)))


def test_weights_that_were_let_go_make_no_difference_to_what_is_compiled():
    described = set()
    for dtype in (torch.float16, torch.float32):  # of a converted file, and of the published ones
        network = Toy()
        network.register_parameter("gone", torch.nn.Parameter(torch.empty(3, dtype=dtype, device="meta")))
        described.add(describe(Part(network, "encode", (images(2),))))
    assert len(described) == 1


DESCRIBES = """
import hashlib, torch
from lumiply.engine.descriptions import describe
from lumiply.engine.compiling import Part
from tests.nano import nano_pipeline

for method in ("correct", "encode", "decode"):
    print(method, hashlib.sha256(describe(Part(nano_pipeline().network, method, (torch.zeros(2),)))).hexdigest())
"""


def test_every_start_describes_a_model_alike_and_so_finds_what_was_kept():
    said = set()
    for seed in ("1", "2", "3", "4"):  # of the order of strings in sets
        environ = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        ran = subprocess.run([sys.executable, "-c", DESCRIBES], capture_output=True, text=True, env=environ)
        assert ran.returncode == 0 and ran.stdout.count("code") == 2, ran.stderr
        said.add(ran.stdout)
    assert len(said) == 1


def test_a_batch_of_one_fits_however_its_first_stride_reads():
    layout = Layout.of(torch.zeros(1, 4, 2, 2))
    given = torch.zeros(3, 4, 2, 2)[:1].as_strided((1, 4, 2, 2), (99, 4, 2, 1))
    assert layout.fit(given) is given
