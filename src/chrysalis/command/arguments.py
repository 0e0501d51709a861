"""What both programs do to their command line before Hydra reads it.

Paths and texts are quoted where Hydra's grammar would read them differently: it gives commas, brackets, quotes and most
other punctuation a meaning, and rejects many letters. Processes that torchrun or srun started get one folder.
"""

import os
import re
import time
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from chrysalis.command.quick_start import keep_compiled
from chrysalis.system.errors import UserError

# the condition kinds, by their files: importing them would import torch, for --help too
KINDS = tuple(file.stem for file in Path(__file__).parents[1].glob("conditions/kinds/[!_]*.py"))
CONDITIONS = (*KINDS, *(f"guidance.negative.{kind}" for kind in KINDS))
PATHS = ("data.path", "data.masks", "data.conditioning_images", "model.pretrained", "model.scheduler")
PATHS += ("condition.text.encoder", "task.image", "task.mask", "task.base", "out", "from", "resume", "plugins")
PATHS += ("*features.pretrained", "*features.weights", "guidance.function", "guidance.*.function", "guidance.*.model")
PATHS += ("guidance.*.image", "guidance.*.mask", "guidance.*.base", "guidance.*.checkpoint", "guidance.colour.target")
TEXTS = (*CONDITIONS, "guidance.*.text", "guidance.*.label", "name", "only", "data.split", "data.*_column")
LISTS = (*CONDITIONS, "plugins")  # several values, or one
FOLDER = {"train": ("name", ""), "sample": ("out", "samples/")}  # the key of the folder, and the prefix of its default
WAIT = timedelta(minutes=10)  # until the first of several processes has begun

changes: list[str] = []  # the overrides typed beside resume=RUN
_stores: list[object] = []  # kept open: without a store of torchrun's, the first process serves it to all


def is_sweep(arguments: list[str]) -> bool:
    """Whether a command starts a sweep."""
    return any(a in ("-m", "--multirun") or a.lower() == "hydra.mode=multirun" for a in arguments)


def as_typed(arguments: list[str]) -> list[str]:
    """Quote the values of PATHS and TEXTS that Hydra would read differently from how they were typed.

    A path's ~ is expanded. Values that are quoted already, null, or a list where the key takes one stay as they are; in
    a sweep so do all that Hydra can read.
    """
    swept = is_sweep(arguments)
    return [_as_typed(a, swept) for a in arguments]


def parsed(arguments: list[str]) -> list[Override]:
    """The arguments as Hydra reads them."""
    return OverridesParser.create().parse_overrides(arguments)


def value_of(argument: str) -> object:
    """The value that Hydra reads in key=value."""
    return parsed([argument])[0].value()


def quoted(text: str) -> str:
    """A text as the value of an override, quoted if it needs to be."""
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    return QuotedString(text, Quote.double).with_quotes().replace("${", "\\${")


def _as_typed(argument: str, swept: bool) -> str:
    key, sign, text = argument.partition("=")
    name = key.lstrip("+")
    is_path = _matches(name, PATHS)
    is_switch = name == "resume" and text.strip().lower() in ("true", "false")
    if not sign or not (is_path or _matches(name, TEXTS)) or text in ("", "null") or is_switch:
        return argument
    try:
        read = parsed([argument])[0]
        if swept or _is_meant(name, text, read):
            return argument
    except HydraException:
        read = None
    if swept and "," in text:
        raise UserError(
            f"{argument} cannot be read: in a sweep a comma separates values, so quote each of them with double quotes "
            f'inside single ones, as in \'{name}="a, b","c (d)"\'.'
        )
    expand = os.path.expanduser if is_path else str
    if read is None and text[0] + text[-1] == "[]" and "," in text and _takes_list(name, text):
        return f"{key}=[{','.join(quoted(expand(part.strip())) for part in text[1:-1].split(','))}]"
    return f"{key}={quoted(expand(text))}"


def _is_meant(name: str, text: str, read: Override) -> bool:
    """Whether Hydra reads a value as it was meant."""
    if read.is_sweep_override():
        return False
    found = read.value()
    if (text[0] + text[-1] in ('""', "''") and len(text) > 1) or name == "guidance.classifier.label":  # often a number
        return True
    if isinstance(found, list):
        return _takes_list(name, text)
    return found == text and ("${" not in text or name not in CONDITIONS)


def _takes_list(name: str, text: str) -> bool:
    """Whether [a,b] is a list for this key, and not a folder called [old]."""
    return _matches(name, LISTS) and not os.path.exists(text)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def set_changes_aside(arguments: list[str]) -> list[str]:
    """Keep the overrides beside resume=RUN from Hydra: they change the recorded configuration, see start_or_resume.py.

    Under SLURM a job that was queued again resumes its run.
    """
    changes.clear()
    none = ("", "''", '""', "null", "false")
    given = [a for a in arguments if a.startswith("resume=") and a[7:].strip() not in none]
    arguments = [a for a in arguments if a in given or not a.startswith("resume=")]
    if is_sweep(arguments):
        return arguments
    if not given and int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return [*arguments, "resume=true"]
    if {a.lower() for a in given} <= {"resume=true"}:
        return arguments
    kept = [a for a in arguments if a.startswith(("-", "resume=", "name=", "hydra"))]
    changes.extend(a for a in arguments if a not in kept)
    return kept


def with_common_folder(arguments: list[str], config_name: str) -> list[str]:
    """Add a folder that all processes share to the arguments, unless one is given.

    Under torchrun it is the first process's time stamp, since each reads the time at a different moment; under SLURM it
    has the numbers of the job and the step.
    """
    # Lightning's own processes have no RANK
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ
    if several and is_sweep(arguments):
        raise UserError("A sweep starts its processes itself: leave torchrun out and give trainer.devices=NUMBER.")
    key, prefix = FOLDER[config_name]
    if any(a.startswith((f"{key}=", "hydra.run.dir=")) for a in arguments):
        return arguments
    if several and {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return [*arguments, f"{key}={prefix}{_from_first_process(time.strftime('%Y-%m-%d_%H-%M-%S'))}"]
    job = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if job and (config_name == "train" or int(os.environ.get("SLURM_NTASKS") or 1) > 1):
        step = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return [*arguments, f"{key}={prefix}slurm-{step}"]
    return arguments


def _from_first_process(value: str) -> str:
    """Return the value of rank 0 in every process, through the store with which training connects them later."""
    keep_compiled()
    import torch.distributed as dist

    store, rank, _ = next(dist.rendezvous("env://", timeout=WAIT))
    _stores.append(store)
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun restarts all when one has failed
    store = dist.PrefixStore(f"chrysalis/{again}", store)
    if rank == 0:
        store.set("folder", value)
    return store.get("folder").decode()
