"""An encoder of a task's own: a WordPiece vocabulary of its texts, and sizes without weights.

For tasks whose words no checkpoint knows, and to try things without one. What is written is what a
run keeps of a checkpoint's encoder: `sweet train` on the same workdir begins with fresh weights.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import seqio
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from calm import storage
from calm.models import bert
from calm.tasks import labelled, text, tokenizer_files
from calm.training.guards import writing
from sweet import checkpoint

SPECIAL = {
  'pad_token': '[PAD]',
  'unk_token': '[UNK]',
  'cls_token': '[CLS]',
  'sep_token': '[SEP]',
  'mask_token': '[MASK]',
}


def write_encoder(
  *,
  task: seqio.Task,
  workdir: str,
  encoder: bert.BertConfig,
  split: str = 'train',
  lowercase: bool = True,
) -> None:
  """Trains a WordPiece vocabulary and writes it with an encoder's sizes; what is there stays.

  `workdir`/encoder gets config.json, tokenizer.json and tokenizer_config.json.

  Args:
    task: of labelled texts.
    workdir: of the run that is to be trained.
    encoder: its vocab_size is the most that the vocabulary may have; the run's is what that has.
    split: of the task, whose texts are read.
    lowercase: whether case makes no difference.

  Raises:
    ValueError: the task has no labelled texts.
  """
  folder = Path(workdir, checkpoint.FOLDER)
  if (folder / checkpoint.CONFIG).is_file():
    print(f'{folder} is there already.')
    return
  texts = _texts(task, split)
  tokenizer = train_wordpiece(texts, vocab_size=encoder.vocab_size, lowercase=lowercase)
  made = dataclasses.replace(encoder, vocab_size=tokenizer.get_vocab_size())
  settings = {**SPECIAL, 'tokenizer_class': 'BertTokenizer', 'do_lower_case': lowercase}
  with writing(folder), storage.new_folder(folder) as partial:
    storage.write_text(partial / tokenizer_files.WHOLE, tokenizer.to_str())
    storage.write_json(partial / tokenizer_files.CONFIG, settings)
    checkpoint.write_config(partial, made)
  print(f'{folder}: {made.vocab_size} tokens, {made.num_layers} layers, {made.emb_dim} wide.')


def train_wordpiece(
  texts: Iterator[str], *, vocab_size: int, lowercase: bool = True
) -> tokenizers.Tokenizer:
  """A tokenizer as BERT's, whose vocabulary of `vocab_size` tokens at most is made of texts."""
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL['unk_token']))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  special = list(SPECIAL.values())
  trainer = trainers.WordPieceTrainer(
    vocab_size=vocab_size, special_tokens=special, show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  ends = [(SPECIAL[name], special.index(SPECIAL[name])) for name in ('sep_token', 'cls_token')]
  tokenizer.post_processor = processors.BertProcessing(*ends)
  return tokenizer


def _texts(task: seqio.Task, split: str) -> Iterator[str]:
  source = labelled.source_of(task)
  text.check_split(task, split)
  found = (texts.values() for _, texts, _, _ in source.labelled(split))
  return itertools.chain.from_iterable(found)
