"""What this machine is and which arithmetic it does well."""

import ctypes
import functools
import os
import platform

import torch

from chrysalis.system.errors import UserError
from chrysalis.system.group_norm import normalise_as_given

# what the UNet computes in, by Lightning's names of precisions; None: in the weights' own type
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}  # Lightning's own
HALVES = "the weights stay float32, since small updates vanish in halves"
REFUSED = {
    "bf16-true": f"{HALVES}: take bf16-mixed",
    "16-true": f"{HALVES}: take 16-mixed",
    "64-true": "noise and losses are float32, and float64 would only be slower: take 32-true",
    "transformer-engine": "its float8 is for linear layers, and a UNet is made of convolutions: take bf16-mixed",
}


def accelerator(asked: str = "auto", key: str = "trainer.accelerator") -> str:
    """'cuda', 'mps' or 'cpu', as Lightning's accelerator=auto would choose."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked in available:
        if not available[asked]:
            raise UserError(f"{key}={asked} is not on this machine: leave it auto, or take cpu.")
        return asked
    if asked not in ("auto", "gpu"):
        raise UserError(f"{key}={asked} is unknown: choose auto, cuda, mps or cpu.")
    if asked == "gpu" and not (available["cuda"] or available["mps"]):
        raise UserError(f"{key}=gpu: there is none on this machine. Leave it auto, or take cpu.")
    return next(name for name, here in available.items() if here)


def require_processes(devices: int | str, on: str) -> None:
    """Raises UserError for far more processes on a CPU than it has cores."""
    cores = os.cpu_count() or 1
    if on == "cpu" and isinstance(devices, int) and devices > 4 * cores:
        raise UserError(
            f"trainer.devices={devices} would start {devices} processes on {cores} CPU cores: take at most {4 * cores}."
        )


def precision(asked: str, on: str) -> tuple[str, str]:
    """(Lightning's name, why). `auto` takes bf16-mixed where the hardware multiplies bf16 faster than fp32."""
    if str(asked) != "auto":
        name = ALIASES.get(str(asked), str(asked))
        if why := REFUSED.get(name.removesuffix("-float16")):
            raise UserError(f"trainer.precision={asked} cannot be used: {why}.")
        if name not in AUTOCAST:
            raise UserError(f"trainer.precision={asked} is unknown: choose {', '.join(AUTOCAST)}, or auto.")
        if name == "16-mixed" and on == "cpu":
            raise UserError(f"trainer.precision={asked}: 16-mixed is for GPUs. On a CPU take bf16-mixed, or auto.")
        return name, "as asked"
    if on == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU multiplies bf16 in hardware"
        return "16-mixed", "this GPU multiplies fp16 in hardware, not bf16"
    if on == "cpu" and cpu_has_bf16():
        return "bf16-mixed", "this CPU has bf16 instructions"
    return "32-true", f"plain float32 is the safe choice on this {on}"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware. oneDNN also emulates it on older ones, slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            flags = f.read()
    except OSError:
        return False
    instructions = any(flag in flags for flag in (" avx512_bf16", " amx_bf16", " bf16 "))
    return instructions and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def device(asked: str = "auto") -> torch.device:
    """The device to draw on."""
    return torch.device(accelerator(asked, "device"))


def description(on: str) -> str:
    """One line for records: 'NVIDIA H200' or 'Intel ... (2 threads)'."""
    if on == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{_cpu_name()} ({threads} thread{'s' if threads > 1 else ''})"


def peak_memory_mib(on: str) -> int | None:
    """The most memory that this process has had on the accelerator, or in RAM; None where that is not told."""
    if on == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20) if on == "cpu" else None


def keep_memory(on: str) -> None:
    """On a CPU under glibc: let freed memory stay with the process instead of mapping it anew for every large tensor.

    By default what is larger than 32 MiB is mapped and unmapped at each operation, and the kernel hands it out page by
    page: at 256 px, two thirds of the speed (docs/log.md). Elsewhere, nothing happens.
    """
    if on != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped alone
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's end is not given back


def tune(unet: torch.nn.Module, on: str, precision: str = "32-true", channels_last: bool | str | None = "auto") -> None:
    """What makes training fast: on a CPU keep_memory; on CUDA TF32, cuDNN's own trials and bf16 throughout.

    Under trainer.deterministic=true cuDNN makes no trials, so that a resumed run is equal to the bit on a GPU too.
    channels_last: the memory layout of the weights; `auto` takes it on CUDA alone (on CPUs it is slower: docs/log.md).
    """
    if channels_last not in ("auto", None, True, False):  # None: of a run that was recorded without it
        raise UserError(f"channels_last={channels_last} is unknown: choose auto, true or false.")
    keep_memory(on)
    if on == "cuda":
        torch.set_float32_matmul_precision("high")
        # trials may choose another algorithm in another process, whose last bits differ
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        if precision == "bf16-mixed":
            normalise_as_given(unet)
    if channels_last is True or (channels_last in ("auto", None) and on == "cuda"):
        unet.to(memory_format=torch.channels_last)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    names = ("torch", "lightning", "diffusers", "hydra-core", "chrysalis")
    return {"python": platform.python_version()} | {name: _installed(name) for name in names}


@functools.cache  # a process does not see another version; and each is read out of a long file
def _installed(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # found by PYTHONPATH alone
        return "not installed"
