"""Runs the jobs of a sweep one after the other, each in a fresh process.

Lightning's own processes, of trainer.devices=2, run the program's command line again, which must be the job's and not
the sweep's; and nothing that a job leaves in its process, such as LOCAL_RANK, can reach the next.
"""

import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

import chrysalis.command.sweep as sweep
from chrysalis.command.arguments import quoted
from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.terminal import say

LEAKED = re.compile(r"LOCAL_RANK|RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|MASTER_\w+|PL_GLOBAL_SEED")
OF_THE_SWEEP = re.compile(r"hydra[./](mode|run\.dir|sweep\b|sweeper\b|launcher\b|job\.config\b)")  # not of its jobs

ConfigStore.instance().store("fresh", {"_target_": "hydra_plugins.chrysalis.FreshProcesses"}, group="hydra/launcher")
stopped: list[int] = []  # the signal that ended the sweep, if one did


class FreshProcesses(Launcher):
    """With resume=true jobs that are done are left alone, and those that have a checkpoint continue from it."""

    __module__ = "hydra_plugins.chrysalis"  # Hydra takes launchers from that package only, where this is known too

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config
        self.program = inspect.getsourcefile(inspect.unwrap(task_function))
        self.folder = Path(config.hydra.sweep.dir)
        self.before = sweep.jobs(self.folder)
        self.number = max((j.number for j in self.before), default=-1)  # the highest that is taken
        _require_sweepable(config, self.folder, self.before)
        stopped.clear()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        done = []
        with Signals() as self.signals:
            for overrides in job_overrides:
                if not stopped:
                    done.append(self._job([o for o in overrides if not o.startswith("resume=")]))
        return done

    def _job(self, overrides: list[str]) -> JobReturn:
        job = next((j for j in self.before if j.is_of(overrides)), None)
        if job and job.finished:
            say(f"\njob {job.number}: {' '.join(overrides)} is done: {shown(job.folder)}")
            sweep.seen.add(job.folder.absolute())
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=0)
        if not job:
            self.number += 1
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = job.number if job else self.number
            config.hydra.job.id = str(config.hydra.job.num)
            if job:
                config.hydra.sweep.subdir = job.folder.name
        where = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        return run_job(self._process, config, hydra_context=self.context, **where)

    def _process(self, cfg: DictConfig) -> int:
        """The exit code of a process that runs one job in this terminal."""
        command = [sys.executable, self.program, *_flags(), *_arguments(cfg)]
        environment = {name: value for name, value in os.environ.items() if not LEAKED.fullmatch(name)}
        return self.signals.wait(subprocess.Popen(command, env=environment))


class Signals:
    """While a job runs: a signal to the sweep lets the job save and end, and no other begins."""

    def __enter__(self) -> "Signals":
        self.job: subprocess.Popen | None = None
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
        heard = [s for s in (getattr(signal, name) for name in names) if signal.getsignal(s) != signal.SIG_IGN]
        self.earlier = {s: signal.signal(s, self._heard) for s in heard}
        return self

    def __exit__(self, *error) -> None:
        for signum, handler in self.earlier.items():
            signal.signal(signum, handler)

    def wait(self, job: subprocess.Popen) -> int:
        self.job = job
        if stopped:  # while the process was started
            job.send_signal(stopped[0])
        code = job.wait()
        self.job = None
        return code

    def _heard(self, signum: int, frame) -> None:
        stopped[:] = stopped or [signum]
        if self.job is not None and not (signum == signal.SIGINT and _has_terminal()):
            self.job.send_signal(signum)


def _has_terminal() -> bool:
    """Whether Ctrl-C comes from a terminal, which sends it to the job as well; twice would mean: leave at once."""
    if os.name != "posix":
        return True
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _require_sweepable(config: DictConfig, folder: Path, before: list[sweep.Job]) -> None:
    """Whether resume has a meaning in this command; a sweep that is there already is continued or left alone."""
    if config.get("preflight") == "only":
        raise UserError(
            "preflight=only looks at one run and leaves nothing behind: give it one value of each key, without -m."
        )
    typed = list(config.hydra.overrides.task)
    continues = config.resume is True
    if not continues and any(o.startswith("resume=") and o not in ("resume=", "resume=null") for o in typed):
        raise UserError("resume=FOLDER continues one run, without -m; a sweep continues with name=NAME resume=true.")
    if continues and not any(o.startswith("name=") for o in typed):
        raise UserError("resume=true needs the sweep's name: give name=NAME too, where the sweep is runs/NAME.")
    again = bool(int(os.environ.get("SLURM_RESTART_COUNT") or 0))  # the same command, queued again
    if before and not continues and not again:
        raise UserError(f"{shown(folder)} already holds a sweep: choose another name, or continue it with resume=true.")


def _flags() -> list[str]:
    """Where else the configuration comes from, if the sweep's command says so."""
    hydra = HydraConfig.get()
    sources = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    return [f"--config-name={hydra.job.config_name}", *(f"--config-dir={path}" for path in sources)]


def _arguments(cfg: DictConfig) -> list[str]:
    """What the job's process is given, like a command that was typed; its number makes it a job."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    own = [o for o in hydra.overrides.hydra if not OF_THE_SWEEP.match(o)] + [f"hydra.job.num={hydra.job.num}"]
    if checkpoints.any_in(folder):
        return [f"resume={quoted(shown(folder))}", *own]
    for name in ("checkpoints", "tensorboard"):  # of an earlier start that left nothing to continue from
        shutil.rmtree(folder / name, ignore_errors=True)
    overrides = [o for o in hydra.overrides.task if not o.startswith("name=")]
    return [*overrides, f"name={quoted(str(cfg.name))}", f"hydra.run.dir={quoted(shown(folder))}", *own]
