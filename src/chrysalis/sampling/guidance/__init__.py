"""Guidance wraps the denoiser: energies (any function), classifiers, CLIP, pairs of models. Samplers never know."""
