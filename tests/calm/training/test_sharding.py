import json
import os
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from calm.models import t5
from calm.training import checkpoints, sharding


@pytest.fixture(scope='module')
def eight(start, tmp_path_factory):
  """What meshes.py says of its cases, and the workdir of the run it begins on eight devices."""
  workdir = tmp_path_factory.mktemp('eight')
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  out, errors = start(workdir, script='meshes.py', XLA_FLAGS=flags).communicate()
  assert out, errors
  return json.loads(out.splitlines()[-1]), workdir


def test_eight_devices_compute_the_losses_of_one(eight):
  cases = set()
  for result in eight[0]:
    one, many = result['one']['losses'], result['eight']['losses']
    np.testing.assert_allclose(many, one, rtol=1e-5, err_msg=str(result['case']))
    assert len(set(one)) == len(one) == 4
    cases.add((result['case'][0], *result['case'][2:]))
  assert {('network', size, parts) for size in (1, 2, 4) for parts in (1, 2)} <= cases
  assert ('t5', 4, 2) in cases


def test_a_device_holds_its_part_of_what_a_rule_splits_and_all_of_the_rest(eight):
  """Adam's moments are split as their parameters are."""
  for result in eight[0]:
    objective, optimizer, size, _ = result['case']
    parts = result['eight']['parts']
    split = [name for name in parts if re.search(r'kernel$|embedding$', name)]
    split = [name for name in split if not re.search('/v_(row|col)/', name)]  # Adafactor's factors.
    copies = {'sgd': 1, 'adafactor': 2, 'adamw': 3}[optimizer]
    assert len(split) == {'network': 2, 't5': 22}[objective] * copies
    for name, part in parts.items():
      assert part == (1 / size if name in split else 1), (result['case'], name)


def test_a_run_goes_on_from_eight_devices_to_one(eight, run, curve, uninterrupted):
  workdir = eight[1]
  assert checkpoints.steps(workdir) == [6]
  run(workdir)
  assert len(curve(workdir)) == len(uninterrupted)
  for line, expected in zip(curve(workdir), uninterrupted, strict=True):
    assert line == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('tied', [False, True])
def test_every_matrix_of_a_t5_has_a_rule(tied):
  config = t5.published('tiny', logits_via_embedding=tied)
  shapes = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  mesh = jax.sharding.AbstractMesh((1, 2), ('data', 'model'))
  placed = sharding.by_rules(mesh, t5.T5.partition_rules, shapes)
  for (path, leaf), where in zip(
    jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(placed), strict=True
  ):
    assert ('model' in where.spec) == (leaf.ndim == 2), jax.tree_util.keystr(path)


RULES = (
  (r'(query|key)/kernel$', PartitionSpec(None, 'model')),
  (r'kernel$', PartitionSpec('model', None)),
)


@pytest.mark.parametrize(
  ('name', 'shape', 'spec'),
  [
    ('query', (3, 4), (None, 'model')),
    ('out', (4, 3), ('model', None)),
    ('out', (3, 4), (None, None)),  # 2 does not divide 3.
    ('query', (4,), ()),  # Another rank, as of Adafactor's factors.
    ('query', (2, 3, 4), ()),
  ],
)
def test_the_first_rule_that_fits_decides(name, shape, spec):
  mesh = jax.sharding.AbstractMesh((1, 2), ('data', 'model'))
  tree = {'moments': [{name: {'kernel': jax.ShapeDtypeStruct(shape, 'float32')}}]}
  (placed,) = jax.tree.leaves(sharding.by_rules(mesh, RULES, tree))
  assert placed.spec == PartitionSpec(*spec)


def test_what_no_rule_names_is_replicated():
  mesh = jax.sharding.AbstractMesh((1, 2), ('data', 'model'))
  tree = {'norm': {'scale': jax.ShapeDtypeStruct((4,), 'float32')}}
  (placed,) = jax.tree.leaves(sharding.by_rules(mesh, RULES, tree))
  assert placed.spec == PartitionSpec()


@pytest.mark.parametrize('size', [0, -1, 1000])
def test_model_parallelism_must_divide_the_devices(size):
  with pytest.raises(ValueError, match=f'model_parallelism {size} does not divide'):
    sharding.make_mesh(size)


class Device:
  """A device of process `process_index`."""

  def __init__(self, process_index):
    self.process_index = process_index


@pytest.mark.parametrize(
  ('owners', 'stay'),
  [
    ([[0], [0], [1], [1]], True),
    ([[0, 0], [1, 1]], True),
    ([[0], [1], [0], [1]], False),  # Rows of a process lie apart.
    ([[1], [1], [0], [0]], False),
    ([[0, 1], [0, 1]], False),  # Two processes compute the same rows.
    ([[0, 1]], False),
  ],
)
def test_rows_are_exchanged_unless_each_process_computes_its_own(monkeypatch, owners, stay):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)

  class Mesh:
    devices = np.array([[Device(owner) for owner in row] for row in owners])
    shape = {'data': len(owners), 'model': len(owners[0])}  # noqa: RUF012

  assert sharding._rows_stay(Mesh) == stay
