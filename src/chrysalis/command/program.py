"""Turn functions of a configuration into programs: `train.py key=value ...`, -m for sweeps, --help, --version."""

import functools
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import chrysalis
from chrysalis.command import launcher, sweep
from chrysalis.command.arguments import FOLDER, as_typed, set_changes_aside, with_common_folder
from chrysalis.command.errors import CONF, message
from chrysalis.command.quick_start import keep_compiled
from chrysalis.command.values import require_name
from chrysalis.system.files import claimed, remove_if_empty
from chrysalis.system.signals import exiting_cleanly
from chrysalis.system.terminal import console, end_stages, is_main_process

_typed: list[str] = []
_NO_LOGGER = dict.fromkeys(("logger=false", "logger=null"), "logger=none")
INTERRUPTED = 128 + signal.SIGINT


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Turn task(cfg) into a program: `python train.py key=value ...`.

    A mistake of the user ends in one or two sentences and exit code 2; debug=true shows the traceback.
    """
    return lambda task: functools.partial(_run, task, config_name)


def _run(task: Callable[[DictConfig], None], config_name: str) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, instead of being printed by Hydra
    for earlier in (sweep.codes, sweep.new_folders, launcher.stop_signals):
        earlier.clear()
    _typed[:] = sys.argv[1:]
    if "--version" in _typed:
        return print(f"chrysalis {chrysalis.__version__}")
    job = functools.update_wrapper(functools.partial(_job, task, config_name), task)
    try:
        sys.argv[1:] = _prepared(["--help"] if _typed == ["help"] else _typed, config_name)
        with exiting_cleanly():  # while it trains, train.py handles signals in training/callbacks/stopping.py
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except KeyboardInterrupt:
        sweep.codes.append(INTERRUPTED)
    except Exception as error:
        sweep.delete_unstarted()
        _show(error, config_name)
    if code := _exit_code():
        sys.exit(code)


def _job(task: Callable[[DictConfig], None], config_name: str, cfg: DictConfig) -> int:
    """Run one job of perhaps many; return its exit code, so that the others run."""
    keep_compiled()
    folder = Path(HydraConfig.get().runtime.output_dir)
    # the main process claims the folder for all processes of a run; and preflight=only writes nothing
    claims = is_main_process() and cfg.get("preflight") != "only"
    try:
        with claimed(folder, FOLDER[config_name][0]) if claims else nullcontext():
            try:
                task(cfg)
            finally:
                end_stages()
                remove_if_empty(folder)
    except Exception as error:
        return _show(error, config_name)
    return 0


def _prepared(arguments: list[str], config_name: str) -> list[str]:
    """The arguments for Hydra: quoted, with what from=... recorded, without the overrides beside resume=RUN."""
    for argument in arguments:
        if argument.startswith("name=") and config_name == "train":
            require_name(argument[5:])  # before a folder is made of it
    # flags first: Python's argparse does not accept `a=1 -m b=2`
    arguments = sorted(arguments, key=lambda a: a.startswith("~") or ("=" in a and not a.startswith("-")))
    words = [_NO_LOGGER.get(a.lower(), a) for a in as_typed(arguments)]
    given = sweep.with_short_job_names(with_common_folder(words, config_name))
    return _sample_arguments(given) if config_name == "sample" else set_changes_aside(given)


def _exit_code() -> int:
    """The exit code of all jobs: of the signal that ended a sweep, else 2 if all that failed were mistakes."""
    if launcher.stop_signals:
        return INTERRUPTED if launcher.stop_signals[0] == signal.SIGINT else 128 + signal.SIGTERM
    failed = {*sweep.codes}
    return 0 if not failed else failed.pop() if failed in ({2}, {INTERRUPTED}) else 1


def _show(error: Exception, config_name: str) -> int:
    """Print an error; return its exit code: 2 for a mistake of the user, 1 for one of the program."""
    text = message(error, config_name)
    if text is None or "debug=true" in _typed:
        traceback.print_exception(error)
    elif config_name != "sample" or is_main_process():  # sampling processes send their mistakes to the first one
        console.print(text, style="red", soft_wrap=True, markup=False)
    sweep.codes.append(1 if text is None else 2)  # not the error: its traceback would keep a failed job's tensors
    return sweep.codes[-1]


def _sample_arguments(arguments: list[str]) -> list[str]:
    """Replace from=IMAGE by the overrides that generated the image, before those typed.

    scheduler=CLASS, any class of diffusers or several in a sweep, becomes an option of conf/scheduler and its key.
    """
    by_class = re.compile(r"scheduler=((?:\w+,)*\w+Scheduler(?:,\w+)*)")
    words: list[str] = []
    for a in arguments:
        words += ["scheduler=other", f"scheduler.name={named[1]}"] if (named := by_class.fullmatch(a)) else [a]
    if not any(a.startswith("from=") for a in words):
        return words
    from chrysalis.command.recipes import expanded

    return expanded(words)


def command_line() -> str:
    """This run's command, quoted for a shell; a sweep job's without the sweep's name."""
    given, context = _typed, HydraConfig.get()
    if context.mode == RunMode.MULTIRUN or not OmegaConf.is_missing(context.job, "num"):  # a job, with its number
        given = [override for override in context.overrides.task if not override.startswith("name=")]
    return shlex.join(["python", Path(sys.argv[0]).name, *given])


def _run_folder(name: str, resume: str | bool | None) -> str:
    if not resume or resume is True:
        return f"runs/{name}"
    run = Path("runs", str(resume))
    return str(run if run.is_dir() and not Path(str(resume)).is_dir() else resume)


def _job_slug(number: int, overrides: str) -> str:
    """'0_lr-1e-05_accumulate_grad_batches-2': without '=', which a path in an override could not contain."""
    parts = [part.split("=", 1) for part in re.split(r",(?=[\w+~./@-]+=)", str(overrides))]
    slug = "_".join(f"{part[0].split('.')[-1]}-{part[1]}" for part in parts if len(part) == 2)
    return re.sub(r"[^A-Za-z0-9._+-]", "-", f"{number}_{slug}")[:120]


# at import: the processes of other launchers only import this
for _name, _resolver in (("run_folder", _run_folder), ("job_slug", _job_slug)):
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)
