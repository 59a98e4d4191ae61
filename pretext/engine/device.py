"""The device and the precision of a job, and the versions of the libraries that compute it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from pretext.data import DECODER
from pretext.engine import distributed
from pretext.errors import UserError

Precision = Literal["auto", "bf16", "fp32"]


class ComputeConfig(NamedTuple):
    """The resolved device, precision and number of workers of a job."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    workers: int


def choose_compute(device: str, precision: Precision = "auto", workers: int = -1) -> ComputeConfig:
    """Resolve device, precision and workers on this machine (see ``MachineSettings`` and ``TrainingSettings``).

    Raises:
        UserError: there is no such device here.
    """
    if distributed.world_size() > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        device = _own_gpu()
    picked = pick_device(device)
    if picked.type == "cuda":
        if distributed.local_world_size() > 1 and device not in ("auto", "cuda", _own_gpu()):
            raise UserError(
                f"machine.device is {device}, one GPU for {distributed.local_world_size()} processes; set it to cuda"
            )
        torch.cuda.set_device(picked)
    cores = max(1, len(os.sched_getaffinity(0)) // distributed.local_world_size())
    if distributed.local_world_size() > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores)
    if workers < 0:
        workers = 1 if picked.type == "cpu" else min(12, cores)
    return ComputeConfig(picked, pick_precision(precision, picked), workers)


def _own_gpu() -> str:
    """Return this process's GPU: the only visible one, or the one with its local rank."""
    visible, number = torch.cuda.device_count(), distributed.local_rank()
    if visible == 1:
        return "cuda:0"
    if number >= visible:
        raise UserError(
            f"{distributed.local_world_size()} processes on this machine, but {visible} GPUs; start one process per GPU"
        )
    return f"cuda:{number}"


def pick_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the GPU if there is one.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        assert device.type in ("cpu", "cuda", "mps")  # others, such as meta, do not compute
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"device {name}: not available on this machine; use auto, cpu or cuda") from error
    return device


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or the name of the processor and its number of cores, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{next(iter(models), platform.machine())}, {len(os.sched_getaffinity(0))} cores"


def pick_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Resolve the precision: "auto" is bf16 if the device supports it natively, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bf16" if native else "fp32"


def autocast(place: ComputeConfig) -> torch.autocast:
    """Return the context in which a network runs at the place's precision; its weights stay float32."""
    return torch.autocast(place.device.type, dtype=torch.bfloat16, enabled=place.precision == "bf16")


def versions() -> dict[str, str]:
    """Return the versions of Pretint, Python, the libraries that compute, and the decoder, by name."""
    packages = ("pretint", "torch", "torchvision", "timm", "numpy", "scikit-image")
    return {
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "decoder": DECODER,
        "platform": f"{platform.system()} {platform.machine()}",
    }
