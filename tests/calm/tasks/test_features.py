"""Features are the columns of a batch under the model's names."""

import numpy as np

from calm.tasks import features

# A row of two examples, [5, 6] to [7, 8, 1] and [9] to [4, 1], then padding.
COLUMNS = {
  'inputs': [[5, 6, 9, 0]],
  'inputs_segment_ids': [[1, 1, 2, 0]],
  'inputs_positions': [[0, 1, 0, 0]],
  'targets': [[7, 8, 1, 4, 1, 0]],
  'targets_segment_ids': [[1, 1, 1, 2, 2, 0]],
  'targets_positions': [[0, 1, 2, 0, 1, 0]],
}


def test_an_encoder_decoder_has_the_features_of_seqio():
  made = features.encoder_decoder({name: np.array(rows) for name, rows in COLUMNS.items()})
  assert {name: rows.tolist() for name, rows in made.items()} == {
    'encoder_input_tokens': COLUMNS['inputs'],
    'encoder_segment_ids': COLUMNS['inputs_segment_ids'],
    'encoder_positions': COLUMNS['inputs_positions'],
    'decoder_target_tokens': COLUMNS['targets'],
    'decoder_input_tokens': [[0, 7, 8, 0, 4, 0]],
    'decoder_segment_ids': COLUMNS['targets_segment_ids'],
    'decoder_positions': COLUMNS['targets_positions'],
    'decoder_loss_weights': [[1, 1, 1, 1, 1, 0]],
  }
