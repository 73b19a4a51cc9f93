"""The bypass autoencoder: a first stage whose decoder also sees the photo it is decoding for."""

from modi_vae.autoencoder import BypassAutoencoder, BypassFeatures, MergedFeatures

__all__ = ["BypassAutoencoder", "BypassFeatures", "MergedFeatures"]
