"""The launcher of sweeps for Hydra, which finds launchers in this namespace package and nowhere else."""

from chrysalis.command.launcher import FreshProcesses

__all__ = ["FreshProcesses"]
