"""TfdsText: a set of tensorflow-datasets, as the path of a data set."""

from trax_hier.config import configurable
from trax_hier.data.corpora.tfds_source import TfdsSource


@configurable(module='trax_hier.data')
def TfdsText(
  name: str,
  feature: str | None = None,
  data_dir: str | None = None,
  download: bool = False,
) -> TfdsSource:
  """The texts of a set of tensorflow-datasets, such as pg19 or wiki40b/en.

      TextFiles.path = @TfdsText()
      TfdsText.name = 'pg19'

  Each example is a document, and the splits are those of the set: without a
  test split, test is its validation split; without a validation split, the end
  of train is held out. A process of its own reads the set once: a prepared set
  of array_record files without TensorFlow, others with it. The texts are kept
  in the data cache, so that later runs need neither.

  Args:
    name: Name of the set, with configuration and version where it has several.
    feature: The feature that has the text; None finds it.
    data_dir: Folder of prepared sets; None means TFDS_DATA_DIR, or the default
      of tfds.
    download: Whether tfds may download and prepare a set that is not prepared.

  Returns:
    A value for `TextFiles.path`, `DocumentLanes.path` or `Subwords.text`.
  """
  return TfdsSource(name, feature, data_dir, download)
