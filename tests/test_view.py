"""The order of an epoch: what every arm of a study is shown, and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moulage.data.view import Examples, TrainingView, require_classes
from moulage.errors import DataError


def examples(count: int, first: int = 0, num_classes: int = 3) -> Examples:
    """Embeddings whose single feature numbers them from ``first``."""
    numbers = np.arange(first, first + count)
    return Examples(numbers[:, None].astype(np.float32), numbers % num_classes)


def view(num_real: int, num_extra: int, num_slots: int) -> TrainingView:
    return TrainingView(examples(num_real), examples(num_extra, num_real) if num_extra else None, num_slots)


sizes = st.tuples(st.integers(1, 40), st.integers(0, 30)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.integers(0, pair[1]), st.just(pair[1]))
)
seeds = st.integers(0, 2**63 - 1)


@given(sizes, seeds, st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_epoch_shows_every_example_once_and_fills_the_slots(size, seed, epoch):
    num_real, num_extra, num_slots = size
    order = view(*size).epoch(seed, epoch)
    counts = np.bincount(order, minlength=num_real + num_extra)
    assert order.dtype == np.int64
    assert order.shape == (num_real + num_slots,)
    assert (counts[num_real:] == 1).all(), "each extra image once"
    fillers = counts[:num_real] - 1
    assert fillers.min() >= 0, "each real image at least once"
    assert fillers.sum() == num_slots - num_extra
    assert fillers.max() <= -(-num_slots // num_real), "no filler again before each real image was one"


@given(sizes, st.integers(0, 30), seeds)
@settings(max_examples=80, deadline=None)
def test_arms_hold_the_same_image_at_the_same_step(size, other, seed):
    num_real, num_extra, num_slots = size
    other = min(other, num_slots)
    first = view(num_real, num_extra, num_slots).epoch(seed, 1)
    second = view(num_real, other, num_slots).epoch(seed, 1)
    common = min(num_extra, other)
    differs = first != second
    assert differs.sum() == max(num_extra, other) - common, "arms differ only in slots that one of them leaves empty"
    for j in range(common):
        assert np.flatnonzero(first == num_real + j) == np.flatnonzero(second == num_real + j)


def test_order_depends_on_seed_and_epoch_alone():
    small = view(30, 5, 8)
    assert (small.epoch(3, 2) == view(30, 5, 8).epoch(3, 2)).all()
    assert (small.epoch(3, 2) != small.epoch(3, 3)).any()
    assert (small.epoch(3, 2) != small.epoch(4, 2)).any()


def test_fillers_change_from_epoch_to_epoch_and_favour_none():
    counts = sum(np.bincount(view(20, 0, 5).epoch(0, epoch), minlength=20) - 1 for epoch in range(400))
    assert counts.sum() == 2000
    assert abs(counts - 100).max() < 45  # 5 standard deviations of a binomial(400, 1/4)


def test_inputs_come_from_both_arrays_without_joining_them(tmp_path):
    real, extra = (np.memmap(tmp_path / name, np.uint8, "w+", shape=(n, 4, 4, 3)) for name, n in (("r", 6), ("e", 3)))
    real[:] = np.arange(6)[:, None, None, None]
    extra[:] = 100 + np.arange(3)[:, None, None, None]
    both = TrainingView(Examples(real, np.zeros(6)), Examples(extra, np.ones(3)), 3)
    indices = np.array([8, 0, 5, 6, 0])
    inputs = both.inputs_at(indices)
    assert inputs.dtype == np.uint8
    assert inputs[:, 0, 0, 0].tolist() == [102, 0, 5, 100, 0]
    assert type(inputs) is np.ndarray
    assert inputs.flags.writeable
    assert both.labels[indices].tolist() == [1, 0, 0, 1, 0]
    assert both.inputs_at(np.empty(0, np.int64)).shape == (0, 4, 4, 3)


@pytest.mark.parametrize(
    ("batch", "limit", "sizes"), [(4, None, [4, 3, 3]), (4, 2, [4, 4]), (24, 250, [10]), (9, None, [5, 5])]
)
def test_batches_share_the_images_out_evenly(batch, limit, sizes):
    small = view(7, 2, 3)
    batches = list(small.batches(5, 1, batch, limit))
    assert [len(labels) for _, labels, _ in batches] == sizes
    assert len(batches) == small.num_steps(batch, limit)
    order = small.epoch(5, 1)
    for inputs, labels, place in batches:
        assert (inputs[:, 0] == order[place]).all()
        assert (labels == order[place] % 3).all()
    assert batches[-1][2].stop == sum(sizes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="4 extra images and 3 slots"):
        view(5, 4, 3)
    with pytest.raises(DataError, match="no training image"):
        TrainingView(examples(0), None, 3)
    with pytest.raises(DataError, match="shape"):
        TrainingView(examples(3), Examples(np.zeros((1, 9), np.float32), np.zeros(1)), 3)
    with pytest.raises(DataError, match="3 inputs and labels"):
        Examples(np.zeros((3, 2), np.float32), np.zeros(4))
    with pytest.raises(DataError, match="Example 1 has the label -1"):
        Examples(np.zeros((2, 2), np.float32), np.array([0, -1]))
    for wrong in (np.zeros((3, 2)), np.zeros((3, 4, 5, 3), np.uint8), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(DataError, match="must be pixels"):
            Examples(wrong, np.zeros(3))


def test_a_class_without_an_example_is_named():
    require_classes(np.array([0, 1, 1]), ("AK", "NV"), "the training images")
    with pytest.raises(DataError, match="No image of AK, DF is among the training images"):
        require_classes(np.array([1]), ("AK", "NV", "DF"), "the training images")
    with pytest.raises(DataError, match="is 2, but there are 2 classes"):
        require_classes(np.array([0, 1, 2]), ("AK", "NV"), "the training images")
