"""The text tower's numbers before any file is read."""

from __future__ import annotations

import subprocess
import sys

import torch

from ldm.text import normal

BUILDS = """
import sys, torch
from cldm import ControlLDM, ControlLDMParams
with torch.device("meta"):
    ControlLDM(ControlLDMParams()).use_bypass_first_stage()
print("torch._dynamo" in sys.modules)
"""


def test_building_the_full_model_without_memory_does_not_import_torchs_compiler():
    """It took more than a second of every start."""
    ran = subprocess.run([sys.executable, "-c", BUILDS], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_initial_numbers_have_the_deviation_that_is_asked_for():
    torch.manual_seed(0)
    assert abs(float(normal(200, 200, deviation=0.05).detach().std()) - 0.05) < 0.002
    with torch.device("meta"):
        assert normal(3, 4).is_meta
