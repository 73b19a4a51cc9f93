"""Weights: finding, reading, checking and writing the files of models and adaptors."""

from lumiply.weights.adaptors import Adaptor, find_adaptors, read_adaptor, save_adaptor
from lumiply.weights.converted import Converted, Header, load_converted, save_converted
from lumiply.weights.files import read_state, save_state
from lumiply.weights.find import WeightFiles, find_weights
from lumiply.weights.model import load_model
from lumiply.weights.text import fetch_text_tower

__all__ = [
    "Adaptor",
    "Converted",
    "Header",
    "WeightFiles",
    "fetch_text_tower",
    "find_adaptors",
    "find_weights",
    "load_converted",
    "load_model",
    "read_adaptor",
    "read_state",
    "save_adaptor",
    "save_converted",
    "save_state",
]
