"""Everything that uses Hydra: composing and checking a configuration, error messages, resuming, sweeps."""

from chrysalis.command.errors import CONF
from chrysalis.command.program import command, command_line

__all__ = ["CONF", "command", "command_line"]
