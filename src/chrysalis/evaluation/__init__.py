"""Evaluation: validation loss, distances between samples and real images, memorization, and the report."""
