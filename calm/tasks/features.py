"""What a model is given: its features, made of a batch's columns.

A batch of columns has for each name, such as 'inputs', the arrays `inputs`, `inputs_segment_ids`
(which example of the row, from 1; 0 is padding) and `inputs_positions` (within the example), all
int32[B, length].
"""

from collections.abc import Mapping

import numpy as np


def encoder_decoder(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Columns `inputs` and `targets` under the names of seqio's encoder-decoder features.

  `encoder_input_tokens`, `encoder_segment_ids` and `encoder_positions` are [B, S],
  `decoder_target_tokens`, `decoder_input_tokens` (the targets of each example shifted right, 0
  first), `decoder_segment_ids`, `decoder_positions` and `decoder_loss_weights` are [B, T].
  """
  targets, positions = columns['targets'], columns['targets_positions']
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  return {
    'encoder_input_tokens': columns['inputs'],
    'encoder_segment_ids': columns['inputs_segment_ids'],
    'encoder_positions': columns['inputs_positions'],
    'decoder_input_tokens': np.where(positions > 0, shifted, 0),
    'decoder_target_tokens': targets,
    'decoder_segment_ids': columns['targets_segment_ids'],
    'decoder_positions': positions,
    'decoder_loss_weights': (columns['targets_segment_ids'] > 0).astype(np.int32),
  }
