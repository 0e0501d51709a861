"""Procedural images: every image is a function of the plane, so it is sharp at any size."""
