"""Guidance: a denoiser wrapped with terms (any loss, a classifier, CLIP, a second model), called like a denoiser."""
