"""Guidance wraps a denoiser: energies (any function), classifiers, CLIP, model pairs; the loop sees a denoiser."""
