"""Chrysalis: fine-tune a pretrained diffusion UNet on images, then draw with it."""

import time

__version__ = "0.1.0"
BEGAN = time.time()  # about when the process began: the libraries are imported after this
