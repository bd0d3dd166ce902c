"""A text scores the same in any script: its words are found, and it is as good as itself."""

import pytest

import gin
from calm.calibration import consistency
from calm.tasks import metrics, words

# The same in many scripts, four words or characters at least.
TEXTS = {
  'Russian': 'Съешь ещё этих мягких булок',
  'Greek': 'Ξεσκεπάζω την ψυχοφθόρα βδελυγμία',
  'Hindi': 'ऋषियों को सताने वाले दुष्ट राक्षस',
  'Arabic': 'نص حكيم له سر قاطع',
  'Hebrew': 'דג סקרן שט בים מאוכזב',
  'Korean': '키스의 고유 조건은 입술끼리',
  'Chinese': '视野无限广窗外有蓝天',
  'Japanese': 'いろはにほへと散りぬるを',
  'Thai': 'เป็นมนุษย์สุดประเสริฐ',
  'Georgian': 'სწრაფი ყავისფერი მელა გადაახტა',
  'decomposed': 'e\u0301te\u0301 a\u0300 Noe\u0308l demain matin',
  'numerals': '\u0661\u0662 \u00bd m\u00b2 \u216b',
  'signs': '?! \N{SNOWMAN} ...',
}
SCORES = {
  'rouge': metrics.rouge,
  'squad': lambda targets, predictions: metrics.squad(
    targets, predictions, form=words.AnswerForm(punctuation='unicode')
  ),
  'chrf': metrics.chrf,
  'bleu': lambda targets, predictions: metrics.bleu(targets, predictions, tokenize='char'),
}


@pytest.mark.parametrize('language', TEXTS)
def test_a_text_is_as_good_as_itself_in_any_script(language):
  text = TEXTS[language]
  for name, score in SCORES.items():
    scores = score([text], [text])
    assert scores == pytest.approx(dict.fromkeys(scores, 100)), name


@pytest.mark.parametrize('language', sorted(set(TEXTS) - {'signs', 'numerals'}))
def test_half_a_text_is_neither_right_nor_wrong(language):
  text = TEXTS[language]
  half = text[: len(text) // 2]
  rouge = metrics.rouge([text], [half])['rouge1']
  assert 0 < rouge < 100
  assert 0 < metrics.squad([text], [half])['f1'] < 100
  assert 0 < consistency.rouge_l(half, text) < 1
  assert 0 < consistency.token_f1(half, text) < 1
  other = TEXTS['Russian' if language != 'Russian' else 'Greek']
  assert metrics.rouge([text], [other])['rouge1'] == 0


@pytest.mark.parametrize('language', TEXTS)
def test_metrics_and_dissimilarities_count_the_same_words(language):
  text = TEXTS[language]
  for other in (text[: len(text) // 2], text.upper(), f'x {text}', TEXTS['Russian']):
    if text.split() == other.split():
      continue
    f1 = metrics.squad([text], [other])['f1'] / 100
    assert 1 - consistency.token_f1(other, text) == pytest.approx(f1)
    rouge = metrics.rouge([text], [other])['rougeLsum'] / 100
    assert 1 - consistency.rouge_l(other, text) == pytest.approx(rouge)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ("The cat_sat, on 2 mats' x-ray", ['the', 'cat', 'sat', 'on', '2', 'mats', 'x', 'ray']),
    ('e\u0301te\u0301', ['\u00e9t\u00e9']),
    ('हिन्दी में', ['हिन्दी', 'में']),
    ('iPhone 用户说', ['iphone', '用', '户', '说']),
    ('ที่นี่', ['ที่', 'นี่']),
    (' \n?!', []),
  ],
)
def test_words_are_letters_and_digits_with_their_marks(text, expected):
  assert words.WORDS(text) == expected


def test_case_and_characters_may_be_kept_as_they_are():
  assert words.Words(lower=False)('The cat') == ['The', 'cat']
  assert words.Words(split_characters=False)('用户 A') == ['用户', 'a']


def test_articles_and_punctuation_of_other_languages():
  german = words.AnswerForm(articles=('der', 'die', 'das'), punctuation='unicode')
  assert german('\u201eDer Hund\u201c \u2013 the') == 'hund the'
  assert words.AnswerForm(articles=())('a dog.') == 'a dog'
  assert words.ANSWER('\u201cdog\u201d.') == '\u201cdog\u201d'
  with pytest.raises(ValueError, match="'ascii' or 'unicode', not 'none'"):
    words.AnswerForm(punctuation='none')


def test_bleu_says_where_it_finds_no_words(capsys):
  text = TEXTS['Chinese']
  assert metrics.bleu([text], [text])['bleu'] == 0
  assert "set metrics.bleu.tokenize = 'zh'" in capsys.readouterr().err
  assert metrics.bleu([text], [text], tokenize='zh')['bleu'] == pytest.approx(100)
  assert metrics.bleu(['A b c d'], ['a b c d'], lower=True)['bleu'] == pytest.approx(100)
  assert capsys.readouterr().err == ''
  with pytest.raises(ValueError, match="no tokenisation 'zz': it has '13a', 'char'"):
    metrics.bleu(['a'], ['a'], tokenize='zz')
  with pytest.raises(ValueError, match="no tokenisation 'zz'"):
    consistency.bleu('a', 'b', tokenize='zz')


def test_gin_sets_what_depends_on_the_language():
  with gin.unlock_config():
    gin.clear_config()
    gin.parse_config("""
from __gin__ import dynamic_registration
from calm.calibration import consistency
from calm.tasks import metrics
from calm.tasks import words
metrics.bleu.tokenize = 'zh'
metrics.rouge.split = @words.Words()
metrics.squad.form = @words.AnswerForm()
consistency.rouge_l.split = @words.Words()
consistency.token_f1.form = @words.AnswerForm()
consistency.bleu.tokenize = 'char'
words.Words.lower = False
words.AnswerForm.articles = ('le', 'la')
""")
    bleu, rouge, squad, rouge_l, f1, sentence_bleu = (
      gin.get_configurable(one)
      for one in (
        metrics.bleu,
        metrics.rouge,
        metrics.squad,
        consistency.rouge_l,
        consistency.token_f1,
        consistency.bleu,
      )
    )
    assert bleu([TEXTS['Chinese']], [TEXTS['Chinese']])['bleu'] == pytest.approx(100)
    assert rouge(['A b'], ['a b'])['rouge1'] == pytest.approx(50)
    assert squad(['le chat'], ['chat'])['em'] == 100
    assert rouge_l('A b', 'a b') == pytest.approx(0.5)
    assert f1('le chat', 'la chat') == 0
    assert sentence_bleu('abcdx', 'abcde') < 1
    gin.clear_config()
