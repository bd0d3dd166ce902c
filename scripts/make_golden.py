"""Writes what transformers computes for small random networks, for tests where torch is absent.

  python scripts/make_golden.py tests/fixtures

makes directories of transformers (config.json, model.safetensors) with `expected.npz` beside the
weights. Needs the `parity` extra.

`golden_t5_1_0` and `golden_t5_1_1`: encoder_input_tokens[5, 40], decoder_input_tokens[5, 13],
decoder_target_tokens[5, 13], padded with 0; float32 encoded[5, 40, D] and logits[5, 13, V], of use
where there is no padding; tokens[5, 17], the greedy output without the start token, 0 after its
end.

`golden_bert` and `golden_deberta`, classifiers: tokens[4, 23], mask[4, 23] and
token_types[4, 23], two texts in each row; computed in float64 and stored in float32,
states[L + 1, 4, 23, D] from the embeddings on, of use where there is no padding, pooled[4, D] and
logits[4, C].
"""

import argparse
import itertools
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

SIZES = {
  'vocab_size': 53,
  'd_model': 20,
  'd_kv': 6,
  'd_ff': 34,
  'num_layers': 2,
  'num_decoder_layers': 3,
  'num_heads': 3,
}
KINDS = {
  'golden_t5_1_0': {'feed_forward_proj': 'relu', 'tie_word_embeddings': True},
  'golden_t5_1_1': {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
}
ENCODER_SIZES = {
  'vocab_size': 53,
  'hidden_size': 20,
  'intermediate_size': 34,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'max_position_embeddings': 29,
  'num_labels': 3,
}
ENCODERS = {
  'golden_bert': (transformers.BertConfig, transformers.BertForSequenceClassification, {}),
  'golden_deberta': (
    transformers.DebertaConfig,
    transformers.DebertaForSequenceClassification,
    {
      'relative_attention': True,
      'max_relative_positions': 8,  # Fewer than there are: the others share the last.
      'pos_att_type': ['c2p', 'p2c'],
      'position_biased_input': False,
      'type_vocab_size': 2,
    },
  ),
}
TEXT_LENGTHS = (23, 2, 9, 17)
SOURCE_LENGTHS = (40, 1, 17, 29, 8)
TARGET_LENGTHS = (13, 7, 2, 13, 10)
MAX_STEPS = 17
EOS = 1


def random_model(settings, generator):
  """A T5 of transformers whose every weight is drawn, large enough for its tokens to vary."""
  config = transformers.T5Config(**SIZES, **settings, decoder_start_token_id=0)
  model = transformers.T5ForConditionalGeneration(config).eval()
  if not settings['tie_word_embeddings']:
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(SIZES['vocab_size'], SIZES['d_model']))
  with torch.no_grad():
    for name, weight in model.named_parameters():
      drawn = generator.standard_normal(weight.shape, np.float32)
      if name == 'decoder.final_layer_norm.weight':
        drawn *= 2  # Of either sign, so that a tied head does not repeat the last token.
      elif 'layer_norm' in name:
        drawn = 1 + 0.3 * drawn
      elif name.endswith('q.weight'):
        drawn *= 1.5 / np.sqrt(weight.shape[1] * SIZES['d_kv'])
      elif not name.startswith(('shared', 'lm_head')) and 'bias' not in name:
        drawn *= 1.5 / np.sqrt(weight.shape[1])
      weight.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
  return model


def ragged_tokens(lengths, generator):
  """Random tokens[rows, longest], each row ended by EOS and padded with 0."""
  rows = np.zeros((len(lengths), max(lengths)), np.int32)
  for row, length in zip(rows, lengths, strict=True):
    row[: length - 1] = generator.integers(2, SIZES['vocab_size'], length - 1)
    row[length - 1] = EOS
  return rows


def expected(model, generator):
  """Inputs and what the model makes of them, and the closest choice between two tokens."""
  source = ragged_tokens(SOURCE_LENGTHS, generator)
  targets = ragged_tokens(TARGET_LENGTHS, generator)
  inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  encoder = {
    'input_ids': torch.from_numpy(source).long(),
    'attention_mask': torch.from_numpy(source > 0),
  }
  with torch.no_grad():
    out = model(**encoder, decoder_input_ids=torch.from_numpy(inputs).long())
    # Without a cache: transformers 5.23 gives the decoder's the depth of the encoder.
    generated = model.generate(
      **encoder,
      max_new_tokens=MAX_STEPS,
      do_sample=False,
      use_cache=False,
      return_dict_in_generate=True,
      output_logits=True,
    )
  tokens = generated.sequences[:, 1:].numpy()
  best = torch.stack(generated.logits, 1).topk(2).values.numpy()
  gap = (best[..., 0] - best[..., 1])[tokens > 0].min()
  return gap, {
    'encoder_input_tokens': source,
    'decoder_input_tokens': inputs,
    'decoder_target_tokens': targets,
    'encoded': out.encoder_last_hidden_state.numpy(),
    'logits': out.logits.numpy(),
    'tokens': np.pad(tokens, ((0, 0), (0, MAX_STEPS - tokens.shape[1]))).astype(np.int32),
  }


def random_encoder(name, generator):
  """A classifier of transformers whose every weight is drawn."""
  config_class, model_class, settings = ENCODERS[name]
  model = model_class(config_class(**ENCODER_SIZES, **settings)).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      drawn = generator.standard_normal(weight.shape, np.float32)
      if 'LayerNorm.weight' in name:
        drawn = 1 + 0.3 * drawn
      elif weight.ndim == 1:
        drawn *= 0.3
      elif 'embeddings' not in name:
        drawn *= 1.5 / np.sqrt(weight.shape[1])
      weight.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
  return model


def expected_of_encoder(model, generator):
  """Inputs, and what the model makes of them in float64."""
  where, lengths = np.arange(max(TEXT_LENGTHS)), np.array(TEXT_LENGTHS)[:, None]
  mask = where < lengths
  tokens = np.where(mask, generator.integers(1, ENCODER_SIZES['vocab_size'], mask.shape), 0)
  types = (mask & (where >= lengths // 3)).astype(np.int32)
  inputs = (torch.from_numpy(array).long() for array in (tokens, mask, types))
  model = model.double()
  with torch.no_grad():
    out = model(
      **dict(zip(('input_ids', 'attention_mask', 'token_type_ids'), inputs, strict=True)),
      output_hidden_states=True,
    )
    # BERT's pooler is of the base, DeBERTa's of the classifier.
    pooler = getattr(model, 'pooler', None) or model.base_model.pooler
    pooled = pooler(out.hidden_states[-1])
  results = {
    'states': torch.stack(out.hidden_states),
    'pooled': pooled,
    'logits': out.logits,
  }
  return {
    'tokens': tokens.astype(np.int32),
    'mask': mask,
    'token_types': types,
    **{name: value.numpy().astype(np.float32) for name, value in results.items()},
  }


def write(directory, model, arrays):
  """Writes a directory of transformers with `expected.npz` beside the weights."""
  shutil.rmtree(directory, ignore_errors=True)
  model.save_pretrained(directory)
  np.savez_compressed(directory / 'expected.npz', **arrays)


def lively(gap, tokens):
  """Whether greedy tokens are many, no near tie, and end both before the last step and not."""
  ended = (tokens == EOS).any(-1)
  return gap > 1e-3 and len(np.unique(tokens)) >= 15 and ended.any() and not ended.all()


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('directory', type=Path, help='where the directories are made')
  arguments = parser.parse_args()
  for name, settings in KINDS.items():
    directory = arguments.directory / name
    for seed in itertools.count():
      generator = np.random.default_rng(seed)
      model = random_model(settings, generator)
      gap, arrays = expected(model, generator)
      if lively(gap, arrays['tokens']):
        break
    write(directory, model, arrays)
    print(f'{directory} (seed {seed})')
  for name in ENCODERS:
    generator = np.random.default_rng(0)
    model = random_encoder(name, generator)
    arrays = expected_of_encoder(model, generator)
    write(arguments.directory / name, model.float(), arrays)
    print(arguments.directory / name)


if __name__ == '__main__':
  main()
