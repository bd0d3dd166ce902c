"""Decoding speed of early exits against full depth, a shallower model, and other libraries.

  python scripts/benchmark_decoding.py --json decoding.json
  python scripts/benchmark_decoding.py --batch_sizes 1 --exit_layers 1 4 --repeats 9

T5 1.1 small sizes with random weights, source and target length 64, greedy, float32. All systems
are timed in turn in one process, several rounds, and the medians are compared: a machine's moods
hit all alike. Seconds are per decode step for the whole batch, the encoder's time spread over the
steps.

  full                    every layer for every token
  truncated               a model that only has d decoder layers: the physical limit of an exit at d
  early_exit              exit forced at layer d through the confident rule of each measure:
                          state, classifier, softmax (the exact margin), shortlist (made by
                          layer 1), gated (the same behind a gate that opens after layer 2, where
                          it can earliest), unsure (a shortlist that is never sure, so that the
                          last layer asks the whole head once more)
  transformers            Hugging Face `generate` in torch, if installed
  ctranslate2_float32/_int8  CTranslate2, if installed

What a step of one row consists of: its weights are read once, 66 MB for the head and 11 MB for a
layer, and at the rate at which the head is read (1.2 ms, 55 GB/s) a layer takes 0.2 ms. It is
measured at 0.4 ms, the time between one layer and eight by seven. Part of what remains are eight
cache-sized copies per layer, 0.1 MB each, which XLA makes at batch 1 for the layout of one-row
products (at batch 8 there are none); the rest, not taken apart further, is the start of a layer's
many small kernels.
An early exit at d costs what a model of d layers does, and the confidence: nothing to speak of for
state and classifier, one more head (1.2 ms) per further layer for the exact margin, 0.12 ms per
layer for the shortlist. What remains above the d-layer model is that, and for a token of which
no layer was sure one head more ("unsure"). From six rows on the shortlists are looked up in the
whole head's logits, which is then no dearer than each row's own blocks, so that only the gate saves
anything there.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from calm.decoding.generator import Generator
from calm.exits import confidence, thresholds
from calm.exits.rules import Confident
from calm.models import pretrained, t5

LENGTH = 64
EOS = 1
MEASURES = {
  'state': confidence.state_saturation,
  'classifier': confidence.classifier,
  'softmax': confidence.softmax_margin,
  'shortlist': confidence.shortlist_margin,
  'gated': confidence.Gated(gate_threshold=0.0),
  'unsure': confidence.shortlist_margin,
}


@dataclasses.dataclass
class System:
  """Something that generates LENGTH tokens for a batch; `run()` returns int tokens[B, LENGTH]."""

  system: str
  run: object
  measure: str | None = None
  exit_layer: int | None = None
  seconds: list = dataclasses.field(default_factory=list)

  @property
  def seconds_per_step(self):
    """Median over the rounds."""
    return statistics.median(self.seconds) / LENGTH

  def ratio_to(self, other):
    """Median over the rounds of this system's time by the other's in the same round."""
    return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

  @property
  def label(self):
    """A short name for tables."""
    parts = [self.system, self.measure, self.exit_layer and f'at {self.exit_layer}']
    return ' '.join(str(part) for part in parts if part)


def random_params(config, seed=0):
  """Fresh weights whose EOS is never the likeliest word, so that every row runs to the end."""
  params = t5.T5(config).init_params(jax.random.key(seed))
  kernel = params['decoder']['logits_dense']['kernel']
  return {
    **params,
    'decoder': {
      **params['decoder'],
      # Its logit is 0, and among so many others some are above.
      'logits_dense': {'kernel': kernel.at[:, EOS].set(0.0)},
    },
  }


def ours(config, params, inputs, rule=None):
  """A function that decodes with this project's decoder."""
  options = {} if rule is None else {'rule': rule}
  # No token ends a row: all systems run LENGTH steps.
  generator = Generator(t5.T5(config), LENGTH, eos_id=-1, **options)

  def run():
    return np.asarray(jax.block_until_ready(generator(params, inputs).tokens))

  return run


def truncated(config, params, num_layers):
  """The model with the first `num_layers` decoder layers only: (config, params)."""
  generator = {
    name: value
    for name, value in params['decoder'].items()
    if not name.startswith('layers_') or int(name.removeprefix('layers_')) < num_layers
  }
  short = dataclasses.replace(config, num_decoder_layers=num_layers, exit_classifier=False)
  generator.pop('exit_classifier', None)
  return short, {**params, 'decoder': generator}


def our_systems(config, params, inputs, exit_layers, measures):
  """Full depth, and for each exit layer the truncated model and each measure's forced exit."""
  systems = [System('full', ours(config, params, inputs))]
  for layer in exit_layers:
    systems.append(
      System('truncated', ours(*truncated(config, params, layer), inputs), None, layer)
    )
    for name, rule in forced_rules(measures, layer, config.num_decoder_layers):
      systems.append(System('early_exit', ours(config, params, inputs, rule), name, layer))
  return systems


def forced_rules(measures, layer, num_layers):
  """Yields (name, rule) of the measures by which an exit can be forced at the layer."""
  # No confidence reaches 2, every one reaches 0.
  forced, never = np.where(np.arange(1, num_layers + 1) < layer, 2.0, 0.0), np.full(num_layers, 2.0)
  for name in measures:
    if name == 'gated' and layer == 1:
      continue  # States are compared from layer 2 on.
    if name == 'unsure' and layer < num_layers:
      continue
    values = never if name == 'unsure' else forced
    yield name, Confident(MEASURES[name], thresholds.PerLayer(jnp.asarray(values, jnp.float32)))


def transformers_system(directory, inputs):
  """Hugging Face's `generate`, or None where torch or transformers is missing."""
  try:
    import torch
    import transformers
  except ImportError:
    return None
  transformers.logging.set_verbosity_error()
  model = transformers.T5ForConditionalGeneration.from_pretrained(directory).eval()
  ids = torch.from_numpy(np.asarray(inputs)).long()

  @torch.no_grad()
  def run():
    out = model.generate(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=LENGTH,
      min_new_tokens=LENGTH,
      do_sample=False,
      num_beams=1,
    )
    return out[:, 1:].numpy()

  return System('transformers', run)


def ctranslate2_systems(directory, inputs, work):
  """CTranslate2 in float32 and int8; empty where it is missing."""
  try:
    import ctranslate2
  except ImportError:
    return []
  systems = []
  for kind in ('float32', 'int8'):
    path = convert_to_ctranslate2(directory, work, kind)
    translator = ctranslate2.Translator(
      str(path), device='cpu', compute_type=kind, inter_threads=1, intra_threads=0
    )
    systems.append(System(f'ctranslate2_{kind}', functools.partial(_translate, translator, inputs)))
  return systems


def _translate(translator, inputs):
  source = [[str(token) for token in row] for row in np.asarray(inputs)]
  results = translator.translate_batch(
    source,
    beam_size=1,
    max_decoding_length=LENGTH,
    min_decoding_length=LENGTH,
    max_input_length=0,
    return_end_token=True,
  )
  return np.array([[int(word) for word in result.hypotheses[0]] for result in results])


def convert_to_ctranslate2(directory, work, kind):
  """Converts a directory of transformers; its vocabulary is the token numbers as words."""
  import ctranslate2.converters.transformers as converters
  import transformers

  class Numbers:
    """A tokenizer whose words are the numbers of the tokens."""

    def __init__(self, size):
      self.size = size
      self.bos_token, self.eos_token, self.pad_token, self.unk_token = None, '1', '0', '2'

    def convert_ids_to_tokens(self, number):
      return str(number)

    def get_vocab(self):
      return {str(i): i for i in range(self.size)}

  loader = converters.T5Loader()
  model = transformers.T5ForConditionalGeneration.from_pretrained(directory)
  tokenizer = Numbers(model.config.vocab_size)
  spec = loader(model, tokenizer)
  path = Path(work, f'ctranslate2_{kind}')
  spec.validate()
  spec.optimize(quantization='int8' if kind == 'int8' else None)
  path.mkdir()
  spec.save(str(path))
  return path


def measure(systems, repeats, budget):
  """Times all systems in turn for `repeats` rounds, or until `budget` seconds are over."""
  begin = time.perf_counter()
  for number in range(repeats):
    for system in systems:
      start = time.perf_counter()
      system.run()
      system.seconds.append(time.perf_counter() - start)
    if number >= 2 and time.perf_counter() - begin > budget:
      break


def check(systems):
  """Compares tokens before anything is timed; returns lines about what differs."""
  full = systems[0].run()
  lines = []
  for system in systems[1:]:
    tokens = system.run()
    if system.system in ('transformers', 'ctranslate2_float32'):
      share = (tokens[:, :LENGTH] == full).mean()
      lines.append(f'{system.label}: {share:.1%} of tokens equal ours')
  return lines


def report(systems, batch_size):
  """Prints a table of milliseconds and ratios."""
  by_layer = {s.exit_layer: s for s in systems if s.system == 'truncated'}
  print(f'\nbatch {batch_size}{"":22}ms/step   of full   of d layers')
  for system in systems:
    limit = by_layer.get(system.exit_layer)
    ratio = '' if limit is None else f'{system.ratio_to(limit):10.2f}'
    print(
      f'  {system.label:28}{1e3 * system.seconds_per_step:9.2f}'
      f'{system.ratio_to(systems[0]):10.2f}{ratio}'
    )


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch_sizes', type=int, nargs='+', default=[1, 8, 32])
  parser.add_argument('--exit_layers', type=int, nargs='+', default=list(range(1, 9)))
  parser.add_argument('--measures', nargs='+', choices=MEASURES, default=list(MEASURES))
  parser.add_argument('--repeats', type=int, default=7, help='rounds over all systems')
  parser.add_argument('--budget', type=float, default=300, help='seconds per batch size')
  parser.add_argument('--no_peers', action='store_true', help='only our own systems')
  parser.add_argument('--json', type=Path, help='write the rows to this file')
  args = parser.parse_args()

  config = t5.published('t5_1_1_small', exit_classifier=True)
  params = random_params(config)
  rows = []
  with tempfile.TemporaryDirectory() as work:
    directory = Path(work, 'huggingface')
    if not args.no_peers:
      plain = truncated(config, params, config.num_decoder_layers)
      pretrained.save_huggingface(directory, *plain)
    for batch_size in args.batch_sizes:
      rng = np.random.default_rng(batch_size)
      inputs = rng.integers(3, config.vocab_size, (batch_size, LENGTH)).astype(np.int32)
      systems = our_systems(config, params, inputs, args.exit_layers, args.measures)
      if not args.no_peers:
        peer = transformers_system(directory, inputs)
        systems += [] if peer is None else [peer]
        with tempfile.TemporaryDirectory() as converted:
          systems += ctranslate2_systems(directory, inputs, converted)
      for line in check(systems):
        print(line, file=sys.stderr)
      measure(systems, args.repeats, args.budget)
      report(systems, batch_size)
      rows += [
        {
          'system': system.system,
          'measure': system.measure,
          'exit_layer': system.exit_layer,
          'batch_size': batch_size,
          'seconds_per_step': system.seconds_per_step,
        }
        for system in systems
      ]
      if args.json:
        args.json.write_text(json.dumps({'rows': rows}, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()
