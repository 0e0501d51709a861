"""This machine: its accelerator, fast precision, peak memory and name; and the setup for fast training on it."""

import ctypes
import functools
import os
import platform
import re
import resource
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import chrysalis
from chrysalis.system.errors import UserError

# autocast's dtype by Lightning's name of the precision; None: no autocast
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}  # Lightning's own
KEEP_FLOAT32 = "the weights stay float32, since small updates vanish in 16 bits"
REFUSED = {
    "bf16-true": f"{KEEP_FLOAT32}: use bf16-mixed",
    "16-true": f"{KEEP_FLOAT32}: use 16-mixed",
    "64-true": "noise and losses are float32, and float64 would only be slower: use 32-true",
    "transformer-engine": "its float8 is for linear layers, and a UNet is made of convolutions: use bf16-mixed",
}


def accelerator(requested: str = "auto", key: str = "trainer.accelerator") -> str:
    """Resolve `requested` to 'cuda', 'mps' or 'cpu', as Lightning's accelerator=auto does."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    candidates = {"auto": ["cuda", "mps", "cpu"], "gpu": ["cuda", "mps"]}.get(requested, [requested])
    for name in candidates:
        if available.get(name):
            return name
    raise UserError(f"{key}={requested} is not available on this machine: choose auto, cuda, mps or cpu.")


def require_processes(devices: int | str | list[int], device_type: str) -> None:
    """Raise UserError for more than four processes per CPU core."""
    cores = os.cpu_count() or 1
    if device_type == "cpu" and isinstance(devices, int) and devices > 4 * cores:
        raise UserError(
            f"trainer.devices={devices} would start {devices} processes on {cores} CPU cores: use at most {4 * cores}."
        )


def precision(requested: str | int, device_type: str) -> tuple[str, str]:
    """Resolve a precision to (Lightning's name, reason); `auto` is bf16-mixed where the hardware has it."""
    name = ALIASES.get(str(requested), str(requested))
    if name != "auto":
        if why := REFUSED.get(name.removesuffix("-float16")):
            raise UserError(f"trainer.precision={requested} cannot be used: {why}.")
        if name not in AUTOCAST:
            raise UserError(f"trainer.precision={requested} is unknown: choose {', '.join(AUTOCAST)}, or auto.")
        if name == "16-mixed" and device_type == "cpu":
            raise UserError(f"trainer.precision={requested}: 16-mixed is for GPUs. On a CPU use bf16-mixed or auto.")
        return name, "as configured"
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU multiplies bf16 in hardware"
        return "16-mixed", "this GPU multiplies fp16 in hardware, not bf16"
    if device_type == "cpu" and cpu_has_bf16():
        return "bf16-mixed", "this CPU has bf16 instructions"
    return "32-true", f"plain float32 is the safe choice on this {device_type}"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; on others oneDNN emulates it, slower than fp32."""
    instructions = re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", _cpuinfo())
    return instructions is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def description(device_type: str) -> str:
    """The name of the hardware: 'NVIDIA H200' or 'Intel ... (2 threads)'."""
    if device_type == "cuda":
        return torch.cuda.get_device_name()
    name, threads = re.search(r"^model name\s*: *(.+)", _cpuinfo(), re.MULTILINE), torch.get_num_threads()
    cpu = name[1].strip() if name else platform.processor() or platform.machine()
    return f"{cpu} ({threads} thread{'s' if threads > 1 else ''})"


def _cpuinfo() -> str:
    """What Linux knows of the CPU; empty on other systems."""
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def peak_memory_mib(device_type: str) -> int | None:
    """Peak memory of this process in MiB, on the GPU or in RAM; None where it is unknown."""
    if device_type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20) if device_type == "cpu" else None


def keep_memory(device_type: str) -> None:
    """On a CPU under glibc, keep freed memory in the process; elsewhere do nothing.

    By default tensors larger than 32 MiB are mapped and unmapped at each operation, and the kernel provides them page
    by page: at 256 px this leaves two thirds of the speed (docs/log.md).
    """
    if device_type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped alone
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's end is not given back


def tune(
    unet: nn.Module,
    device_type: str,
    precision: str = "32-true",
    channels_last: bool | str = "auto",
    benchmark: bool | None = None,
) -> None:
    """Set up fast training: on a CPU keep_memory; on CUDA TF32, cuDNN's benchmark mode, and normalization in bf16.

    Under trainer.deterministic=true cuDNN does not benchmark, so that a resumed run is bit-identical on a GPU too.
    benchmark: cuDNN's mode where it is given, as Lightning has set it already.
    channels_last: the memory layout of the weights; `auto` uses it on CUDA alone (on CPUs it is slower: docs/log.md).
    """
    keep_memory(device_type)
    if device_type == "cuda":
        torch.set_float32_matmul_precision("high")
        if benchmark is None:  # which may choose another algorithm in another process, whose last bits differ
            torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        if precision == "bf16-mixed":
            normalize_in_input_dtype(unet)
    if channels_last is True or (channels_last == "auto" and device_type == "cuda"):
        unet.to(memory_format=torch.channels_last)


class InputDtypeGroupNorm(nn.GroupNorm):
    """nn.GroupNorm in the precision of its input, whatever autocast chooses.

    CUDA's autocast computes it in float32 and returns float32; the SiLU after it follows, and half of the activations
    that a UNet keeps for its backward pass are then twice as large. The kernel sums in float32 in any case, and the
    CPU's autocast leaves it alone.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def normalize_in_input_dtype(module: nn.Module) -> None:
    """Turn every nn.GroupNorm of a module into InputDtypeGroupNorm, in place; weights and their names stay."""
    for part in module.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = InputDtypeGroupNorm


@functools.cache  # each is read from a long file
def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that results depend on."""
    libraries = {name: version(name) for name in ("torch", "lightning", "diffusers", "hydra-core")}
    return {"python": platform.python_version(), **libraries, "chrysalis": chrysalis.__version__}
