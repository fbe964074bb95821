"""The process that uses tensorflow-datasets; `tfds_source` starts it.

Its last line on standard output is the answer, in JSON.
"""

import json
import os
import sys
from pathlib import Path

from trax_hier.data.cache.entries import write_json
from trax_hier.data.corpora.documents import add_document
from trax_hier.data.corpora.tfds_source import RECORD_FILE
from trax_hier.data.corpora.writer import DocumentWriter
from trax_hier.data.folders import Notes

_USUAL = ('text', 'book_text', 'article', 'document', 'content')
_RANDOM_ACCESS = 'array_record'


def _builder(request):
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(request['name'], data_dir=request['data_dir'])
  except Exception as error:
    # Of many classes; the first line says which sets or configurations exist.
    reason = str(error).strip().partition('\n')[0][:300]
    raise ValueError(f'{type(error).__name__}: {reason}') from error
  # Without this check, tfds would try the network for minutes.
  if not builder.is_prepared():
    if not request['download']:
      raise ValueError(
        f'not prepared in {builder.data_dir}: TfdsText.download = True lets '
        'tfds download and prepare it; TfdsText.data_dir names another folder'
      )
    builder.download_and_prepare()
  return tfds, builder


def _find(request):
  """Returns the folder of the set, and the feature that has the text."""
  tfds, builder = _builder(request)
  features = builder.info.features
  texts = [
    name
    for name in features
    if isinstance(features[name], tfds.features.Text)
    or getattr(features[name], 'np_dtype', None) is object
  ]
  feature = request['feature']
  if feature is None:
    usual = [name for name in _USUAL if name in texts]
    feature = next(iter(usual or (texts if len(texts) == 1 else [])), None)
  if feature not in texts:
    raise ValueError(
      f'set TfdsText.feature to the text of an example: its features are '
      f'{", ".join(features)}'
    )
  return {'folder': str(builder.data_path), 'feature': feature}


def _read(request):
  """Writes the documents of all splits to a folder."""
  tfds, builder = _builder(request)
  folder, feature = Path(request['folder']), request['feature']
  left_out, files = Notes(), {}
  with DocumentWriter(folder, request['name']) as writer:
    for split in sorted(builder.info.splits):
      before = writer.n_documents
      for i, example in enumerate(_examples(tfds, builder, split)):
        name = f'{split} example {i}'
        add_document(writer, left_out, example[feature], feature, name)
      if writer.n_documents > before:
        files[split] = writer.n_documents - before
    writer.end()
  if not files:
    raise ValueError(f'no text in its feature {feature}')
  record = {'files': files, 'left_out': left_out.record()}
  write_json(folder / RECORD_FILE, record)
  return {}


def _examples(tfds, builder, split):
  file_format = builder.info.file_format
  if file_format is not None and file_format.value == _RANDOM_ACCESS:
    yield from builder.as_data_source(split=split)
  else:
    # Loads TensorFlow.
    data = builder.as_dataset(split=split, shuffle_files=False)
    yield from tfds.as_numpy(data)


def main(request: dict) -> dict:
  """Returns the answer to a request; see `tfds_source`."""
  try:
    return {'find': _find, 'read': _read}[request['action']](request)
  except ImportError as error:
    advice = 'pip install tensorflow tensorflow-datasets importlib_resources'
    return {'error': f'{error}: {advice}'}
  except (OSError, ValueError) as error:
    return {'error': ' '.join(str(error).split())}


if __name__ == '__main__':
  answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)  # What a package prints is no answer.
  print(json.dumps(main(json.loads(sys.argv[1]))), file=answers)
