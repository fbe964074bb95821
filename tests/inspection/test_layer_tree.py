"""The layer tree: names, shapes, parameter counts."""

import re

import jax
import pytest
import toy

from trax_hier.compat import tl
from trax_hier.inspection import layer_tree
from trax_hier.inspection.layer_tree import model_tree
from trax_hier.layers import AverageShorten, RepeatUpsample
from trax_hier.models import HourglassLM, TransformerLM
from trax_hier.training.state import abstract_init, token_shapes


def tree(layer, length=8):
  batch = token_shapes((2, length))
  return model_tree(layer, *abstract_init(layer, batch), batch)


def names(root):
  return [node.name for _, node in root.walk()]


def Outer():
  def Nested():
    return tl.Serial(tl.Dense(2))

  inner = Inner(tl.Serial(tl.Dense(5), tl.Serial(tl.Dense(4))))
  return tl.Serial(tl.Embedding(7, 4), tl.Serial(inner, tl.Dropout(), Nested()))


def Inner(layer):
  return tl.Serial(residual(layer))


def residual(layer):
  return tl.Residual(layer, tl.Relu(), tl.Fn('Twice', lambda x: 2 * x))


def test_compositions_are_named_after_the_functions_that_make_them():
  root = tree(Outer())
  # The compositions of `residual` and `Nested` belong to the calling function.
  # The Serial that Outer passes to Inner is not a second Outer; the Serial
  # inside it belongs to it.
  assert [
    (level, node.name, node.n_parameters) for level, node in root.walk()
  ] == [
    (0, 'Outer', 87),
    (1, 'Embedding_7_4', 28),
    (1, 'Inner', 49),
    (2, 'Serial', 49),
    (3, 'Dense_5', 25),
    (3, 'Dense_4', 24),
    (1, 'Dense_2', 10),
  ]
  dense = root.children[1].children[0].children[0]
  assert (dense.inputs, dense.outputs) == (((2, 8, 4),), ((2, 8, 5),))


def test_parameters_of_a_shared_layer_count_once():
  dense = tl.Dense(4)
  root = tree(tl.Serial(tl.Embedding(7, 4), dense, tl.Relu(), dense))
  assert [node.n_parameters for node in root.children] == [28, 20]
  assert root.n_parameters == 48


@pytest.mark.parametrize('remat', [False, True])
def test_layers_inside_loops_are_listed(remat):
  layer = TransformerLM(
    toy.VOCAB, d_model=8, d_ff=8, n_heads=2, n_layers=3, remat=remat
  )
  found = names(tree(layer))
  assert found.count('DecoderBlock') == 1 and 'FeedForward' in found
  assert ('Remat' in found) == remat
  # They are listed again although JAX has cached the trace.
  assert names(tree(layer)) == found


def test_parameters_of_alternatives_count_once():
  layer = HourglassLM(
    toy.VOCAB,
    d_model=8,
    d_ff=8,
    n_heads=2,
    hierarchy='2@2',
    shorten=AverageShorten,
    upsample=RepeatUpsample,
    shorten_factor_dropout=(2, 4),
  )
  root = tree(layer)
  assert {'AverageShorten(2)', 'AverageShorten(4)'} <= set(names(root))
  for _, node in root.walk():
    if node.children:
      total = sum(child.n * child.n_parameters for child in node.children)
      assert node.n_parameters == total, node.name


def test_layers_without_weights_that_pool_are_listed():
  average = tl.Fn('Average', lambda x: x.reshape(2, 4, 2, 4).mean(2))
  heads = tl.Fn('Heads', lambda x: x.reshape(2, 4, 2, 2))
  root = tree(tl.Serial(tl.Embedding(7, 4), average, heads))
  assert names(root)[1:] == ['Embedding_7_4', 'Average']
  assert root.children[1].outputs == ((2, 4, 4),)


def test_no_tracer_stays_in_a_layer():
  layer = tl.Serial(tl.Embedding(7, 4), tl.Dense(4))
  tree(layer)
  left = [(x.weights, x.state, x.rng) for x in (layer, *layer.sublayers)]
  assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(left))


def test_a_tree_of_shapes_equals_the_tree_of_a_batch():
  layer = TransformerLM(toy.VOCAB, d_model=8, d_ff=8, n_heads=2, n_layers=3)
  assert layer_tree.tree(layer, (2, 8)) == tree(layer)
  head, root, *parts = layer_tree.tree(layer, (2, 8)).text(1).splitlines()
  assert head.split() == ['layer', 'parameters', 'in', 'out']
  assert re.fullmatch(r'TransformerLM +\d,\d{3}   \(2, 8\) +\(2, 8, 17\)', root)
  assert any(line.startswith('  Repeat(3) ...') for line in parts)


def test_a_single_layer_is_a_tree():
  root = layer_tree.tree(tl.Fn('Twice', lambda x: 2 * x), (2, 3, 4))
  assert (root.name, root.outputs) == ('Twice', ((2, 3, 4),))


def test_the_wrong_number_of_inputs_is_an_error():
  with pytest.raises(ValueError, match='Add takes 2 inputs, got 1 shapes'):
    layer_tree.tree(tl.Add(), (2, 8))
