"""ROUGE, and `trax-hier evaluate --rouge`, which generates summaries."""
# ruff: noqa: RUF001  # Texts are in many scripts.

import importlib.metadata
import json
import sys

import numpy as np
import pytest
from messages import messages

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import cli, config, generation
from trax_hier.generation import rouge
from trax_hier.storage.runs import open_run
from trax_hier.training import train

pytest.importorskip('rouge_score')


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


# Sentences --------------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('One. Two! Three?', ['One.', 'Two!', 'Three?']),
    ('he said "yes." (Or not.) ok', ['he said "yes."', '(Or not.)', 'ok']),
    ('a line\nthat goes on. next\n', ['a line that goes on.', 'next']),
    ('Title\n \n\nText of it', ['Title', 'Text of it']),
    ('we show x .\nand then y .', ['we show x .', 'and then y .']),
    (
      'See Fig. 3 of Lee et al. (2003). Now',
      ['See Fig. 3 of Lee et al. (2003).', 'Now'],
    ),
    (
      'see fig . 3 , e.g. J. Doe vs. us .',
      ['see fig . 3 , e.g. J. Doe vs. us .'],
    ),
    (
      '1. Introduction. 2. Wait... what',
      ['1. Introduction.', '2. Wait...', 'what'],
    ),
    ('A final signal. Yes', ['A final signal.', 'Yes']),
    ('pi is 3.14 of www.x.org', ['pi is 3.14 of www.x.org']),
    (' \n', []),
    ('', []),
    # Other scripts; a space need not follow.
    (
      '今天下雨。明天晴！「好吗？」没有',
      ['今天下雨。', '明天晴！', '「好吗？」', '没有'],
    ),
    ('値は３．１４です．次に', ['値は３．１４です．', '次に']),
    ('یہ ایک ہے۔ دوسرا؟ تیسرا', ['یہ ایک ہے۔', 'دوسرا؟', 'تیسرا']),
    ('पहला। दूसरा॥ तीसरा', ['पहला।', 'दूसरा॥', 'तीसरा']),
    ('ሰላም። ሌላ፧ አዎ', ['ሰላም።', 'ሌላ፧', 'አዎ']),
    ('Первое. Второе! Да', ['Первое.', 'Второе!', 'Да']),
  ],
)
def test_sentences(text, expected):
  assert list(rouge.sentences(text)) == expected


def test_lead():
  assert rouge.lead('One. Two\nlines. Three.', 2) == 'One.\nTwo lines.'
  assert rouge.lead('One.', 3) == 'One.'


# Scores -----------------------------------------------------------------------

# Reference, prediction; rouge1, rouge2, rougeL, rougeLsum by hand.
_BY_HAND = [
  # 4 of 6 words: the cat on mat; 1 of 5 pairs: the cat.
  (
    'the cat sat on the mat',
    'the cat lay on a mat',
    (4 / 6, 1 / 5, 4 / 6, 4 / 6),
  ),
  # Common pairs: 'red fox', 'blue cow'; only one sentence is in order.
  ('red fox. Blue cow.', 'blue cow. Red fox.', (1, 2 / 3, 1 / 2, 1)),
  # The same texts with other line breaks: sentences are not lines.
  ('red fox. Blue\ncow.', 'blue cow.\nRed\nfox.', (1, 2 / 3, 1 / 2, 1)),
  # 'runs' and 'running' share a stem; 1 of 2 and 1 of 4 words: 2 * 1 / 6.
  ('runs home', 'running to the shop', (1 / 3, 0, 1 / 3, 1 / 3)),
  ('a text', '', (0, 0, 0, 0)),
]


@pytest.mark.parametrize(('reference', 'prediction', 'expected'), _BY_HAND)
def test_scores_by_hand(reference, prediction, expected):
  found = rouge.score([reference], [prediction])
  assert list(found) == ['rouge1', 'rouge2', 'rougeL', 'rougeLsum']
  assert list(found.values()) == pytest.approx([100 * x for x in expected])


def test_scores_are_means():
  references, predictions, expected = zip(*_BY_HAND, strict=True)
  found = rouge.score(references, predictions)
  mean = 100 * np.mean(expected, axis=0)
  assert list(found.values()) == pytest.approx(mean.tolist())


def test_unequal_or_zero_numbers_of_texts():
  with pytest.raises(ValueError, match='no reference'):
    rouge.score([], [])
  with pytest.raises(ValueError, match='shorter'):
    rouge.score(['a', 'b'], ['a'])


# A reference and a prediction with half of its words; they have equal lengths.
_SCRIPTS = {
  'Chinese': ('北京下雨', '北京晴天'),
  'Chinese with digits': ('北京2008年', '上海2008天'),
  'Chinese with Latin': ('GPT 模型 很强', 'GPT 模样 太弱'),
  'Latin with Chinese': ('OpenAI 系统', 'OpenAI 模型'),
  'Japanese': ('カメラが', 'カメきれ'),
  'Korean': ('나는 학교에 간다 오늘', '나는 집에 간다 내일'),
  'Thai': ('กขคง', 'กขจฉ'),
  'Russian': ('Москва слезам не верит', 'Москва словам не поверит'),
  'Greek': ('ένα δύο τρία τέσσερα', 'ένα δύο πέντε έξι'),
  'Arabic': ('واحد اثنان ثلاثة أربعة', 'واحد اثنان خمسة ستة'),
  'Hebrew': ('יום טוב', 'יום רע'),
  'Hindi': ('हिन्दी भाषा', 'हिन्दी बोली'),
  'Tamil': ('தமிழ் மொழி', 'தமிழ் எழுத்து'),
  'Armenian': ('բարև ձեզ', 'բարև քեզ'),
  'Georgian': ('დილა მშვიდობისა', 'დილა ღამე'),
  'letters with diacritics': ('ä ö', 'ä é'),
}


@pytest.mark.parametrize('script', _SCRIPTS)
def test_texts_of_any_script(script):
  reference, prediction = _SCRIPTS[script]
  found = rouge.score([reference], [prediction])
  if script == 'Chinese with digits':  # 2008 of 4 words
    assert found['rouge1'] == pytest.approx(25)
  elif script == 'Chinese with Latin':  # GPT, 模 of 5 words
    assert found['rouge1'] == pytest.approx(40)
  elif script == 'Latin with Chinese':  # OpenAI of 3 words
    assert found['rouge1'] == pytest.approx(100 / 3)
  else:
    assert found['rouge1'] == found['rougeL'] == pytest.approx(50)
  same = rouge.score([reference], [reference])
  assert list(same.values()) == pytest.approx([100] * 4)
  assert rouge.score([reference], [''])['rouge1'] == 0


@pytest.mark.parametrize('text', ['', '...', '。', '—'])
def test_texts_without_words_score_zero(text):
  for texts in ((text, text), ('some words', text), (text, 'some words')):
    assert set(rouge.score(texts[:1], texts[1:]).values()) == {0}


_ENGLISH = (
  'The naïve café owner’s co-op sold 1,234.5 Größen in 2008, e.g. to us.',
  'A λ-phage and β-sheets: “quoted” text — with dashes… and résumés.',
  'we prove x_1 > 0 .\nrunning runners ran',
)


def test_scores_of_english_are_those_of_rouge_score():
  """Also if a prediction is in another script."""
  from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer(rouge.TYPES, use_stemmer=True)
  predictions = (*_ENGLISH[1:], 'we prove β-sheets — 北京。')
  pairs = [*zip(_ENGLISH, predictions, strict=True)]
  pairs += [(text, text) for text in _ENGLISH]
  for texts in pairs:
    lines = ['\n'.join(rouge.sentences(text)) for text in texts]
    expected = scorer.score(*lines)
    found = rouge.score(texts[:1], texts[1:])
    for name in rouge.TYPES:
      assert found[name] == 100 * expected[name].fmeasure
  assert found['rouge1'] == 100


# evaluate --rouge -------------------------------------------------------------

_TEST = [
  ('the cat sat. on it lay. a red mat. so it was', 'the cat sat'),
  ('blue cow. red fox.', 'blue cow. red fox.'),
  ('one two three four five six', 'two four'),
  ('seven', 'eight. nine'),
  ('ten eleven', 'eleven ten'),
]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a smoke-test run of an encoder-decoder on pairs of bytes."""
  folder = tmp_path_factory.mktemp('pairs')
  for split in ('train', 'test'):
    rows = (dict(zip(('document', 'summary'), r, strict=True)) for r in _TEST)
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / f'{split}.jsonl').write_text(text)
  config.clear()
  config.parse(
    [],
    [
      'train.model = @ScalingTransformer',
      'ScalingTransformer.vocab_size = 256',
      'ScalingTransformer.d_model = 8',
      'ScalingTransformer.d_ff = 8',
      'ScalingTransformer.n_encoder_layers = 1',
      'ScalingTransformer.n_decoder_layers = 1',
      'ScalingTransformer.n_heads = 2',
      'ScalingTransformer.attention = @SelfAttention',
      'ScalingTransformer.feed_forward = @FeedForward',
      'ScalingTransformer.positions = @LearnedPositions',
      'LearnedPositions.n_positions = 64',
      'train.optimizer = @Adam',
      'train.data = @TextPairs()',
      f"TextPairs.path = '{folder}'",
      'TextPairs.batch_size = 2',
      'TextPairs.source_length = 24',
      'TextPairs.target_length = 12',
      'TextPairs.test_as_valid = True',
      'train.steps = 1',
    ],
  )
  train(output_dir=str(folder / 'run'))
  config.clear()
  return folder / 'run'


@pytest.fixture
def program(capsys, run):
  """Runs `evaluate` on the run; returns code, stdout, stderr."""

  def evaluate(*flags):
    code = cli.main(['evaluate', f'--run={run}', *flags])
    out, err = capsys.readouterr()
    return code, out, messages(err)

  return evaluate


@pytest.fixture
def fake_generate(monkeypatch):
  """Stub: returns the first eleven bytes of a source; yields its calls."""
  calls = []

  def generate(model, weights, prompt, n_tokens, **kwargs):
    calls.append(kwargs | dict(prompt=prompt, n_tokens=n_tokens))
    return [source[:11] for source in kwargs['sources']]

  monkeypatch.setattr(generation, 'generate', generate)
  return calls


def _table(out):
  """The numbers of the table by row name, and the lines before it."""
  lines = out.splitlines()
  start = next(i for i, line in enumerate(lines) if 'rougeLsum' in line)
  assert lines[start].split() == list(rouge.TYPES)
  assert len(set(map(len, lines[start:]))) == 1
  rows = (line.rsplit(maxsplit=4) for line in lines[start + 1 :])
  return {row[0]: list(map(float, row[1:])) for row in rows}, lines[:start]


@pytest.mark.slow
def test_bits_of_summaries(program):
  code, out, _ = program()
  assert code == 0
  # The bytes of each summary and its end, at most 12.
  n = sum(min(12, len(summary) + 1) for _, summary in _TEST)
  assert f'bytes scored: {n}\n' in out
  assert 'rows of 12; each byte is predicted from those before it, and' in out


@pytest.mark.slow
def test_rouge_scores_the_summaries_of_the_model(program, monkeypatch, run):
  scored = []
  score = rouge.score
  monkeypatch.setattr(
    rouge, 'score', lambda *texts: scored.append(texts) or score(*texts)
  )
  code, out, err = program('--rouge')
  assert code == 0
  assert err.startswith('5 of 5 summaries in ')
  (references, found), (_, leads), (_, heads) = scored
  documents = dict(reversed(row) for row in _TEST)
  order = [documents[summary] for summary in references]
  assert order == sorted(documents.values(), key=lambda d: -min(24, len(d)))
  assert leads == [rouge.lead(text, 3) for text in order]
  assert heads == [text[:12] for text in order]

  opened = open_run(run)
  _, weights = opened.load_weights()
  rows = generation.generate(
    opened.model,
    weights,
    [[]] * 5,
    12,
    temperature=0,
    stop=[[0]],
    sources=[opened.data.vocab.encode(text)[:24] for text in order[::-1]],
  )
  assert found == [opened.data.vocab.decode(row) for row in rows[::-1]]
  table, lines = _table(out)
  version = importlib.metadata.version('rouge-score')
  assert lines == [
    f'run: {run}, step 1, float32',
    'split: test, 5 of 5 pairs',
    'decoding: the most likely token at each step; up to 12 tokens',
    f'rouge-score {version}: mean F1 in percent, with its stemmer',
  ]
  names = ['model', 'lead-3', 'first 12 tokens']
  assert list(table) == names
  for name, texts in zip(names, scored, strict=True):
    values = list(score(*texts).values())
    assert table[name] == pytest.approx(values, abs=0.005)


def test_scores_of_given_summaries(program, fake_generate):
  _, out, _ = program('--rouge', '--n_examples=2', '--lead=1')
  table, lines = _table(out)
  assert lines[1] == 'split: test, 2 of 5 pairs'
  # 'the cat sat' is complete; 'blue cow. r' has precision 2/3, recall 2/4.
  assert table['model'] == pytest.approx(
    [50 + 100 * 2 / 7, 50 + 100 * 1 / 5, 50 + 100 * 2 / 7, 50 + 100 * 2 / 7],
    abs=0.005,
  )
  # The first sentence is 'the cat sat.' and 'blue cow.', 2 of 4 words.
  assert table['lead-1'] == pytest.approx(
    [50 + 100 / 3, 50 + 100 / 4, 50 + 100 / 3, 50 + 100 / 3], abs=0.005
  )
  (call,) = fake_generate
  assert [len(prompt) for prompt in call['prompt']] == [0, 0]
  sources = [bytes(source.tolist()).decode() for source in call['sources']]
  assert sources == [_TEST[0][0][:24], _TEST[1][0]]
  del call['prompt'], call['sources']
  assert call == dict(n_tokens=12, temperature=0, stop=[[0]], n_ids=256)


def test_references_in_other_scripts_are_counted(
  program, fake_generate, monkeypatch
):
  monkeypatch.setattr(rouge, 'n_other_scripts', lambda texts: len(texts) - 3)
  _, out, _ = program('--rouge')
  assert '2 of 5 references are not in Latin letters' in out


def test_settings_are_passed_on(program, fake_generate):
  flags = ['--n_beams=4', '--n_tokens=9', '--batch_size=3', '--split=valid']
  _, out, _ = program('--rouge', *flags)
  assert 'split: valid, 5 of 5' in out
  assert 'decoding: 4 beams, length penalty 0.6; up to 9 tokens' in out
  assert 'first 9 tokens' in out
  for call in fake_generate:
    assert (call['n_beams'], call['length_penalty']) == (4, 0.6)
    assert call['n_tokens'] == 9
  # The last batch is padded to a full one, so that nothing recompiles.
  lengths = [[len(s) for s in call['sources']] for call in fake_generate]
  assert lengths == [[24, 24, 18], [10, 5, 5]]
  fake_generate.clear()
  _, out, _ = program('--rouge', '--n_beams=2', '--length_penalty=1')
  assert '2 beams, length penalty 1;' in out
  assert fake_generate[0]['length_penalty'] == 1


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--n_beams=2'], '--n_beams goes with --rouge'),
    (['--lead=2'], '--lead goes with --rouge'),
    (['--rouge', '--window=4'], '--window cannot be combined with --rouge'),
    (['--rouge', '--stride=4'], '--stride cannot be combined with --rouge'),
    (['--rouge', '--lead=0'], '--lead = 0: must be an integer of 1 or more'),
    (['--rouge', '--n_tokens=0'], '--n_tokens = 0: must be'),
    (['--rouge', '--n_examples=-1'], '--n_examples = -1: must be'),
    (['--rouge', '--n_beams=0'], '--n_beams = 0: must be'),
    (['--rouge', '--batch_size=0'], '--batch_size = 0: must be'),
    (['--rouge', '--length_penalty=1'], 'goes with --n_beams of 2 or more'),
    (['--rouge', '--n_tokens=65'], 'has only 64, see LearnedPositions.n'),
  ],
)
def test_bad_flags_are_named(program, flags, message):
  code, out, err = program(*flags)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier evaluate: ') and message in err
  assert len(err.strip().splitlines()) == 1


def test_a_missing_package_is_named(program, monkeypatch):
  monkeypatch.setitem(sys.modules, 'rouge_score', None)
  code, out, err = program('--rouge')
  assert (code, out) == (2, '')
  assert "pip install 'trax_hier[rouge]'" in err


def test_an_empty_split_is_named(program, run):
  (run.parent / 'valid.jsonl').write_text('')
  try:
    code, _, err = program(
      '--rouge', '--split=valid', '--config=TextPairs.test_as_valid = False'
    )
  finally:
    (run.parent / 'valid.jsonl').unlink()
  assert code == 2 and 'the valid split is empty' in err


def test_data_without_pairs_is_named(program):
  bindings = ['train.data = @Synthetic()', 'Synthetic.task = "copy"']
  bindings += ['Synthetic.batch_size = 2', 'Synthetic.length = 8']
  code, out, err = program('--rouge', *(f'--config={b}' for b in bindings))
  assert (code, out) == (2, '')
  assert '--rouge needs pairs of texts, such as @TextPairs() gives' in err
  assert err.endswith('the data of this run is Synthetic\n')
