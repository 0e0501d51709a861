"""Chrysalis: fine-tune a pretrained diffusion UNet on images, then sample from it."""

import time

__version__ = "0.1.0"
PROCESS_START = time.time()  # the libraries are imported after this
