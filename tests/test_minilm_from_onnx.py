"""A BERT out of an ONNX graph: which of its numbered matrices is which."""

import importlib

import numpy as np
import pytest

from calm import configuration

onnx = pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def script():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(configuration.shipped_root() / 'scripts')
    return importlib.import_module('minilm_from_onnx')


def graph_of(tables, matrices):
  """A graph with tables by name, and a product for each matrix by the name of its node."""
  numbered = {f'onnx::MatMul_{7 + i}': value for i, value in enumerate(matrices.values())}
  nodes = [
    onnx.helper.make_node('MatMul', ['x', number], [f'y{number}'], name=name)
    for name, number in zip(matrices, numbered, strict=True)
  ]
  values = [
    onnx.numpy_helper.from_array(value, name) for name, value in {**tables, **numbered}.items()
  ]
  return onnx.helper.make_graph(nodes, 'g', [], [], values)


def test_a_matrix_is_named_by_its_node_and_lies_as_pytorch_has_it(script):
  kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
  words = np.ones((5, 2), np.float32)
  found = script.tensors_of(
    graph_of(
      {'model.0.auto_model.embeddings.word_embeddings.weight': words},
      {'/model/model.0/auto_model/encoder/layer.1/intermediate/dense/MatMul': kernel},
    )
  )
  assert set(found) == {
    'embeddings.word_embeddings.weight',
    'encoder.layer.1.intermediate.dense.weight',
  }
  np.testing.assert_array_equal(found['encoder.layer.1.intermediate.dense.weight'], kernel.T)


def test_a_product_of_no_layer_is_refused(script):
  with pytest.raises(ValueError, match='/head/MatMul multiplies by onnx::MatMul_7'):
    script.tensors_of(graph_of({}, {'/head/MatMul': np.ones((2, 2), np.float32)}))


def test_a_network_without_norms_is_no_bert(script):
  tensors = {'embeddings.word_embeddings.weight': np.ones((5, 2), np.float32)}
  with pytest.raises(ValueError, match='this graph is another network'):
    script.settings_of(tensors, graph_of({}, {}), num_heads=2)
