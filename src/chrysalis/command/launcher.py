"""Hydra's launcher that runs the jobs of a sweep one after the other, each in a fresh process.

With trainer.devices=2 Lightning runs the process's command line again, which must be the job's and not the sweep's; and
nothing that a job leaves in its process, such as LOCAL_RANK, reaches the next.
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

from chrysalis.command import sweep
from chrysalis.command.arguments import quoted
from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.terminal import say

LEAKED = re.compile(r"LOCAL_RANK|RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|MASTER_\w+|PL_GLOBAL_SEED")
# overrides of the sweep, not of its jobs
SWEEP_ONLY = re.compile(r"hydra[./](mode|run\.dir|sweep\b|sweeper\b|launcher\b|job\.config\b)")

ConfigStore.instance().store("fresh", {"_target_": "hydra_plugins.chrysalis.FreshProcesses"}, group="hydra/launcher")
stop_signals: list[int] = []  # the signal that ended the sweep, if any


class FreshProcesses(Launcher):
    """The launcher. With resume=true, finished jobs are skipped and those with a checkpoint are resumed."""

    __module__ = "hydra_plugins.chrysalis"  # Hydra accepts launchers from that package only

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember the sweep; raise UserError if it cannot be started or continued."""
        self.context, self.config = hydra_context, config
        self.program = inspect.getfile(inspect.unwrap(task_function))
        self.before = sweep.jobs(Path(config.hydra.sweep.dir))
        self.number = max((j.number for j in self.before), default=-1)  # the highest so far
        self.process: subprocess.Popen | None = None
        _require_sweepable(config, bool(self.before))
        stop_signals.clear()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs. A signal is forwarded to the running one, which saves and ends; no other begins."""
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
        forwarded = [s for s in (getattr(signal, name) for name in names) if signal.getsignal(s) != signal.SIG_IGN]
        earlier = {signum: signal.signal(signum, self._forward) for signum in forwarded}
        own = [[o for o in overrides if not o.startswith("resume=")] for overrides in job_overrides]
        try:
            return [self._job(overrides) for overrides in own if not stop_signals]
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler)

    def _job(self, overrides: list[str]) -> JobReturn:
        """Run one job, or return what it has returned before."""
        job = next((j for j in self.before if sweep.identity(j.overrides) == sweep.identity(overrides)), None)
        if job and job.finished:
            say(f"\njob {job.number}: {' '.join(overrides)} is done already: {shown(job.folder)}")
            sweep.ended_jobs.add(job.folder.absolute())
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
        """Run one job in a process in this terminal; return its exit code."""
        environment = {name: value for name, value in os.environ.items() if not LEAKED.fullmatch(name)}
        self.process = subprocess.Popen([sys.executable, self.program, *_prepare_job(cfg)], env=environment)
        if stop_signals:  # a signal came while the process was started
            self.process.send_signal(stop_signals[0])
        return self.process.wait()

    def _forward(self, signum: int, *_: object) -> None:
        stop_signals[:] = stop_signals or [signum]
        if self.process is not None and not (signum == signal.SIGINT and _has_terminal()):
            self.process.send_signal(signum)


def _has_terminal() -> bool:
    """Whether Ctrl-C comes from a terminal, which sends it to the job too: forwarded, it would count twice."""
    if os.name != "posix":
        return True
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _require_sweepable(config: DictConfig, exists: bool) -> None:
    """Raise UserError if resume has no meaning in this command, or the folder holds a sweep that is not continued."""
    if config.get("preflight") == "only":
        raise UserError("preflight=only describes one run and writes nothing: give one value of each key, without -m.")
    typed = list(config.hydra.overrides.task)
    continues = config.resume is True
    if not continues and any(o.startswith("resume=") and o not in ("resume=", "resume=null") for o in typed):
        raise UserError("resume=FOLDER resumes one run, without -m; a sweep continues with name=NAME resume=true.")
    if continues and not any(o.startswith("name=") for o in typed):
        raise UserError("resume=true needs the sweep's name: give name=NAME too, where the sweep is runs/NAME.")
    again = bool(int(os.environ.get("SLURM_RESTART_COUNT") or 0))  # SLURM queued the same command again
    if exists and not continues and not again:
        folder = shown(Path(config.hydra.sweep.dir))
        raise UserError(f"{folder} already holds a sweep: choose another name, or continue it with resume=true.")


def _prepare_job(cfg: DictConfig) -> list[str]:
    """Return a job's arguments, and delete what an earlier start without a checkpoint left in its folder.

    They are the configuration, the folders added to it, and overrides; the number marks it as a job.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    added = [f"--config-dir={s.path}" for s in hydra.runtime.config_sources if s.provider == "command-line"]
    own = [o for o in hydra.overrides.hydra if not SWEEP_ONLY.match(o)] + [f"hydra.job.num={hydra.job.num}"]
    if checkpoints.any_in(folder):
        overrides = [f"resume={quoted(shown(folder))}"]
    else:
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        overrides = [o for o in hydra.overrides.task if not o.startswith("name=")]
        overrides += [f"name={quoted(str(cfg.name))}", f"hydra.run.dir={quoted(shown(folder))}"]
    return [f"--config-name={hydra.job.config_name}", *added, *overrides, *own]
