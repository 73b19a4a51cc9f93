"""Parts of Stable Diffusion 2.1: attention, UNet, autoencoder, text tower, noise schedule, sampler.

Nothing here reads a file, an environment variable or a device; attribute names are the checkpoint format.

Notation, in every file: b batch, c channels, h w height and width of a feature map, n tokens, d width of a head.
"""
