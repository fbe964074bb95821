"""Peak FLOP/s of devices, and the model FLOPs utilization of a run."""

import types

import numpy as np
import pytest
import toy_training

from trax_hier.training import loop, read_metrics
from trax_hier.training.utilization import mesh_peak_flops, peak_flops


@pytest.mark.parametrize(
  'kind, teraflops',
  [
    ('NVIDIA A100-SXM4-80GB', 312),
    ('NVIDIA A100-SXM4-40GB MIG 1g.5gb', None),
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA H100 NVL', 835),
    ('NVIDIA H200', 989),
    ('NVIDIA GH200 480GB', 989),
    ('NVIDIA B200', 2250),
    ('NVIDIA B300 SXM6 AC', 2250),
    ('NVIDIA GB300', 2500),
    ('NVIDIA GB200', 2500),
    ('NVIDIA L4', 121),
    ('NVIDIA L40S', 362),
    ('NVIDIA L40', None),
    ('Tesla T4', 65),
    ('Tesla V100-SXM2-16GB', 125),
    ('TPU v2', 23),
    ('TPU v3', 61.5),
    ('TPU v4', 275),
    ('TPU v4 lite', None),
    ('TPU v5', 459),
    ('TPU v5 lite', 197),
    ('TPU v6 lite', 918),
    ('TPU7x', 1153.5),
    ('cpu', None),
  ],
)
def test_peak_of_device_kinds(kind, teraflops):
  expected = teraflops and pytest.approx(teraflops * 1e12)
  assert peak_flops(kind) == expected


@pytest.mark.parametrize('kind, peak', [('NVIDIA L4', 8 * 121e12), ('?', None)])
def test_mesh_peak_is_the_sum_over_devices(kind, peak):
  devices = np.full((2, 4), types.SimpleNamespace(device_kind=kind))
  mesh = types.SimpleNamespace(devices=devices, size=8)
  assert mesh_peak_flops(mesh) == peak


def test_utilization_is_reported_if_the_peak_is_known(
  tmp_path, monkeypatch, capsys
):
  toy_training.run(tmp_path / 'cpu', 2)
  assert 'MFU' not in capsys.readouterr().out
  assert not any('mfu' in line for line in read_metrics(tmp_path / 'cpu'))
  monkeypatch.setattr(loop, 'mesh_peak_flops', lambda mesh: 1e9)
  toy_training.run(tmp_path / 'known', 3)
  # The only matmul of the model gives logits: 8 x 6 tokens, 8 wide, 16 ids.
  flops_per_token = 3 * 2 * 8 * 16
  lines = read_metrics(tmp_path / 'known')
  lines = [line for line in lines if line['kind'] == 'train']
  assert lines[-1]['mfu'] > 0
  assert 'mfu' not in lines[0]  # The first step has no speed.
  for line in lines[1:]:
    assert line['mfu'] == pytest.approx(
      line['tokens_per_second'] * flops_per_token / 1e9
    )
  out = capsys.readouterr().out
  assert 'tokens/s, MFU ' in out and '%' in out
