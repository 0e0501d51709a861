"""Sampling: the loop, timesteps, schedulers, tasks and guidance, and the folder of images that they fill."""
