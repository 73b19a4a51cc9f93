"""LumiNet: latent intrinsics, ControlNet, and the latent diffusion model that joins them."""

from cldm.controlnet import ControlNet, ControlNetParams
from cldm.intrinsics import IntrinsicsParams, LatentIntrinsics, PriorExtractor
from cldm.luminet import Conditions, ControlLDM, ControlLDMParams
from cldm.steps import StepConditions, StepNetwork

__all__ = [
    "Conditions",
    "ControlLDM",
    "ControlLDMParams",
    "ControlNet",
    "ControlNetParams",
    "IntrinsicsParams",
    "LatentIntrinsics",
    "PriorExtractor",
    "StepConditions",
    "StepNetwork",
]
