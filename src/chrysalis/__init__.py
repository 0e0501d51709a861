"""Chrysalis: fine-tune a pretrained diffusion UNet on pictures, then draw with it."""
