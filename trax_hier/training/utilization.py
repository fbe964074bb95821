"""Peak FLOP/s of devices, for the model FLOPs utilization (MFU).

MFU is the model's FLOP/s (see `flops`) divided by the peak of the devices: PaLM
(arXiv 2204.02311), appendix B.
"""

import re

from jax.sharding import Mesh

# (pattern of `device_kind`, FLOP/s of dense bfloat16 matrix multiplication of
# one JAX device or None); the first match counts. NVIDIA also states figures
# with sparsity, which are twice as high.
_PEAKS = (
  # Slices of a GPU have an unknown peak.
  (r'.*\b(MIG|GRID)\b.*', None),
  # In float16: these GPUs have no bfloat16 matrix multiplication.
  (r'.*\bV100-PCIE\b.*', 112e12),  # NVIDIA V100 datasheet
  (r'.*\bV100-SXM2\b.*', 125e12),  # NVIDIA V100 datasheet
  (r'.*\bT4\b.*', 65e12),  # NVIDIA T4 datasheet
  (r'.*\bA100\b.*', 312e12),  # NVIDIA A100 datasheet
  (r'.*\bL4\b.*', 121e12),  # NVIDIA L4 datasheet, half of 242
  (r'.*\bL40S\b.*', 362e12),  # NVIDIA L40S datasheet
  (r'.*\bH100 PCIe\b.*', 756e12),  # NVIDIA H100 datasheet, half of 1513
  (r'.*\bH[12]00 NVL\b.*', 835e12),  # H100 and H200 datasheets, half of 1671
  (r'.*\bG?H[12]00\b.*', 989e12),  # H100, H200, GH200 datasheets, half of 1979
  (r'.*\bGB200\b.*', 2500e12),  # GB200 NVL72 datasheet, 360e15 / 72, halved
  (r'.*\bGB300\b.*', 2500e12),  # In bfloat16 as GB200
  (r'.*\bB[23]00\b.*', 2250e12),  # HGX B200, B300: 36e15 / 8, halved
  # In TPU v2 and v3, each of the two cores of a chip is a JAX device.
  (r'TPU v2', 46e12 / 2),  # JAX's jax.experimental.pallas.tpu_info
  (r'TPU v3', 123e12 / 2),  # cloud.google.com/tpu/docs/v3
  (r'TPU v4', 275e12),  # cloud.google.com/tpu/docs/v4
  (r'TPU v5( lite|e)', 197e12),  # cloud.google.com/tpu/docs/v5e
  (r'TPU v5p?', 459e12),  # cloud.google.com/tpu/docs/v5p
  (r'TPU v6( lite|e)', 918e12),  # cloud.google.com/tpu/docs/v6e
  # As in v2 and v3, each of the two cores of a chip is a JAX device.
  (r'TPU7x', 2307e12 / 2),  # cloud.google.com/tpu/docs/tpu7x
)


def peak_flops(device_kind: str) -> float | None:
  """Peak FLOP/s of a device; None if unknown.

  Args:
    device_kind: `jax.Device.device_kind`, such as 'NVIDIA L4'.

  Example:
    >>> peak_flops('NVIDIA H200') / 1e12
    989.0
    >>> print(peak_flops('cpu'))
    None
  """
  for pattern, peak in _PEAKS:
    if re.fullmatch(pattern, device_kind):
      return peak
  return None


def mesh_peak_flops(mesh: Mesh) -> float | None:
  """Peak FLOP/s of a mesh of equal devices; None if unknown."""
  peak = peak_flops(mesh.devices.flat[0].device_kind)
  return None if peak is None else peak * mesh.size
