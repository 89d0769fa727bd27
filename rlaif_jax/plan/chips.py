"""Chips, and devices of a topology that is not there to compile for."""

import dataclasses
import importlib.util
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip, by its data sheet.

  Attributes:
    flops: of bfloat16 matrix products, a second.
    bandwidth: of its memory, bytes a second.
    link: bytes a second that it sends to its neighbours, all links together.
    memory: bytes that programs may use.
  """

  flops: float
  bandwidth: float
  link: float
  memory: int


# TPUs: what libtpu's own "out of memory" names as the limit. GPUs: 0.9 of the
# memory, as the launch scripts set XLA_PYTHON_CLIENT_MEM_FRACTION.
TPUS = {
  'v4': Chip(275e12, 1.228e12, 300e9, int(30.75 * GIB)),
  'v5e': Chip(197e12, 0.819e12, 200e9, int(15.75 * GIB)),
  'v5p': Chip(459e12, 2.765e12, 600e9, int(95.74 * GIB)),
  'v6e': Chip(918e12, 1.64e12, 400e9, int(31.25 * GIB)),
}
GPUS = {
  'h100': Chip(989e12, 3.35e12, 450e9, int(0.9 * 84942979072)),
  'h200': Chip(989e12, 4.8e12, 450e9, int(0.9 * 151397597184)),
}
# Of nobody's machine: round numbers, for trying things out.
CPU = Chip(1e12, 1e11, 1e10, 4 * GIB)

_EXAMPLES = (
  'v5e:4x4, v5p:2x2x4, v6e:8x8, v5e:4x4@2 (slices), h200:8, h200:2x8 (hosts x '
  'GPUs)'
)

# What XLA's GPU compiler asks of a device, as a GpuTargetConfigProto; all of
# NVIDIA's Hopper generation but for memory, its speed and the name.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  device_vendor: "NVIDIA Corporation"
  name: "{name}"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for.

  Attributes:
    name: as given.
    chip: what each of them is.
    devices: of all hosts.
  """

  name: str
  chip: Chip
  devices: Sequence[Any]


def prepare() -> None:
  """Sets what the compilers read from the environment, before jax is used.

  This process itself computes nothing, and nothing asks for a TPU's metadata.
  """
  jax.config.update('jax_platforms', 'cpu')
  for name, value in {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    # Warnings are read (compiling.complaints); the rest is noise.
    'TF_CPP_MIN_LOG_LEVEL': '1',
    'TPU_MIN_LOG_LEVEL': '1',
    'TPU_STDERR_LOG_LEVEL': '1',
  }.items():
    os.environ.setdefault(name, value)
  # Plugins say at length that their devices are not here.
  logging.getLogger('jax._src.xla_bridge').setLevel(logging.CRITICAL)


def load(name: str) -> Topology:
  """The topology called `name`, such as v5e:4x4 or h200:8.

  `cpu:N` are devices of this process, for trying things out.

  Raises:
    ValueError: no such chip or shape.
    ModuleNotFoundError: what compiles for it is not installed.
  """
  kind, _, shape = name.partition(':')
  if kind in TPUS and re.fullmatch(r'\d+(x\d+){1,2}(@\d+)?', shape):
    return Topology(name, TPUS[kind], _tpus(kind, name))
  if kind in GPUS and re.fullmatch(r'(\d+x)?\d+', shape):
    return Topology(name, GPUS[kind], _gpus(kind, shape))
  if kind == 'cpu' and shape.isdecimal():
    devices = jax.devices('cpu')
    if len(devices) < int(shape):
      raise ValueError(
        f'topology={name!r}: this process has {len(devices)} devices'
      )
    return Topology(name, CPU, devices[: int(shape)])
  raise ValueError(
    f'topology={name!r} is unknown; chips: {", ".join((*TPUS, *GPUS))}; for '
    f'example {_EXAMPLES}'
  )


def missing(name: str) -> str | None:
  """The package that compiling for `name` lacks; None if there is nothing."""
  kind = name.partition(':')[0]
  needs = {
    **dict.fromkeys(TPUS, ('libtpu',)),
    **dict.fromkeys(GPUS, ('jax_plugins.xla_cuda12',)),
  }
  for module in needs.get(kind, ()):
    try:
      found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
      found = None
    if found is None:
      return module
  return None


def _tpus(kind: str, name: str) -> Sequence[Any]:
  _need(name)
  topology, _, slices = name.partition('@')
  options: dict[str, Any] = {}
  if slices:
    options['num_slices'] = int(slices)
  if kind == 'v4':
    options['chip_config_name'] = 'megacore'
  # A host has two chips in each direction; where there are fewer, say so.
  sizes = [int(n) for n in topology.partition(':')[2].split('x')]
  if kind in ('v5e', 'v6e') and min(sizes) < 2:
    options['chips_per_host_bounds'] = [*sizes, 1]
  try:
    return topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **options
    ).devices
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(f'topology={name!r}: {reason}') from error


def _gpus(kind: str, shape: str) -> Sequence[Any]:
  _need(kind)
  hosts, _, each = shape.rpartition('x')
  chip = GPUS[kind]
  config = _HOPPER.format(
    bandwidth=int(chip.bandwidth),
    memory=round(chip.memory / 0.9),
    name=f'NVIDIA {kind.upper()}',
  )
  return topologies.get_topology_desc(
    platform='cuda',
    topology_name=kind,
    target_config=config,
    topology=f'1x{hosts or 1}x{each}',
  ).devices


def _need(name: str) -> None:
  if module := missing(name):
    raise ModuleNotFoundError(
      f'compiling for {name} needs {module}, which is not installed: pip '
      'install -e .[aot]'
    )
