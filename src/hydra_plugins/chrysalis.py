"""Hydra looks for launchers in this package, to which any distribution may add a file, and in no other."""

from chrysalis.command.launcher import FreshProcesses

__all__ = ["FreshProcesses"]
