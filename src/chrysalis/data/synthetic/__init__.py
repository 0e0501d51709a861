"""Procedural pictures: every picture is a function of the plane, so it is sharp at any size."""
