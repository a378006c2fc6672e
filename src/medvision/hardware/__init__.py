"""Everything that differs between CPU, GPU and TPU."""

from medvision.hardware.cpu import keep_freed_memory, train_slow_depthwise_in_float32
from medvision.hardware.plan import Plan, choose_plan
from medvision.hardware.report import describe_hardware, peak_memory_mb
from medvision.hardware.xla import skip_slow_tpu_probe, tpu_is_present

__all__ = [
    "Plan",
    "choose_plan",
    "describe_hardware",
    "keep_freed_memory",
    "peak_memory_mb",
    "skip_slow_tpu_probe",
    "tpu_is_present",
    "train_slow_depthwise_in_float32",
]
