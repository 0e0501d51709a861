"""What train.py and sample.py need of Hydra: composing, mistakes in one sentence, resuming, sweeps."""

import functools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from chrysalis.command.mistakes import sentence
from chrysalis.command.runs import set_changes_aside
from chrysalis.command.sweep import forget
from chrysalis.files import remove_if_empty
from chrysalis.terminal import console, is_main_process

_typed: list[str] = []
CONF = Path(__file__).resolve().parents[3] / "conf"


def command(config_name: str) -> Callable:
    """Turn task(cfg) into a program: `python train.py key=value ...`, -m for sweeps, --help.

    A mistake of the user ends in one or two sentences and exit code 2; debug=true shows the traceback.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        codes: list[int] = []  # not the exceptions: their tracebacks would keep a failed job's tensors alive

        @functools.wraps(task)
        def job(cfg: DictConfig) -> None:
            """One job of perhaps many: its error is kept for the end, so that the other jobs of a sweep run."""
            from chrysalis.data.store import cache_folder

            # torch's own default is a temporary folder; set before torch is imported, which reads it then
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
            try:
                task(cfg)
            except Exception as error:
                codes.append(_show(error, config_name))
            finally:
                remove_if_empty(Path(HydraConfig.get().runtime.output_dir))

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, instead of being printed by Hydra
            for name, resolver in (("run_folder", _run_folder), ("job_slug", _job_slug)):
                OmegaConf.register_new_resolver(name, resolver, replace=True)
            codes.clear()
            _typed[:] = sys.argv[1:]
            try:
                sys.argv[1:] = _recalled(sys.argv[1:]) if config_name == "sample" else set_changes_aside(sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
            except Exception as error:
                forget()
                codes.append(_show(error, config_name))
            if codes:
                sys.exit(min(codes))

        return main

    return decorate


def _show(error: Exception, config_name: str) -> int:
    """Tell the user; the exit code: 2 for a mistake of theirs, 1 for one of ours."""
    text = sentence(error, config_name, CONF)
    if text is None or "debug=true" in _typed:
        traceback.print_exception(error)
    elif config_name != "sample" or is_main_process():  # drawing processes hand their mistakes to the first one
        console.print(text, style="red", soft_wrap=True, markup=False)
    return 1 if text is None else 2


def _recalled(arguments: list[str]) -> list[str]:
    """sample.py from=picture.png: the arguments with which that picture was drawn, below those typed now."""
    swept = any(a in ("-m", "--multirun") for a in arguments)
    arguments = [word for a in arguments for word in _by_class(a if swept else _quoted(a))]
    if not any(a.startswith("from=") for a in arguments):
        return arguments
    from chrysalis.command.recipes import expanded  # only here: it imports torch, which --help does not wait for

    return expanded(arguments)


def _by_class(argument: str) -> list[str]:
    """scheduler=CLASS: any scheduler class of diffusers can be given as if it were a leaf of conf/scheduler."""
    if re.fullmatch(r"scheduler=(\w+,)*\w+Scheduler(,\w+)*", argument):
        return ["scheduler=other", argument.replace("=", ".name=", 1)]
    return [argument]


def _quoted(argument: str) -> str:
    """text=a moth, on a leaf: Hydra would take the comma for a sweep, and other signs for its own."""
    key, _, value = argument.partition("=")
    listed = value[:1] + value[-1:] in ('""', "''", "[]") and len(value) > 1
    if key.split(".")[-1] not in ("text", "label") or key.startswith("guidance.classifier"):
        return argument
    if listed or value in ("", "null"):
        return argument
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return f'{key}="{escaped.replace("${", chr(92) + "${")}"'


def command_line() -> str:
    """The command of this job, quoted so that it can be typed again; of a sweep, the job's own overrides."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.get().mode == RunMode.MULTIRUN else _typed
    return shlex.join(["python", Path(sys.argv[0]).name, *overrides])


def _run_folder(name: str, resume: str | None) -> str:
    return str(resume) if resume else f"runs/{name}"


def _job_slug(number: int, overrides: str) -> str:
    """'0_lr-1e-05_accumulate_grad_batches-2': no '=', which a path in an override could not hold."""
    typed = OverridesParser.create().parse_overrides([a for a in sys.argv[1:] if "=" in a and not a.startswith("-")])
    swept = {o.key_or_group for o in typed if o.is_sweep_override()}
    parts = [part.split("=", 1) for part in str(overrides).split(",") if part.split("=")[0].lstrip("+") in swept]
    slug = "_".join(f"{key.split('.')[-1]}-{value}" for key, value in parts)
    return re.sub(r"[^A-Za-z0-9._+-]", "-", f"{number}_{slug}")[:120]
