"""The order of an epoch: what every arm of a study is shown, and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moulage.data.training_view import Examples, TrainingView, require_classes
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


weights_of_3 = st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any)


@given(sizes, seeds, st.integers(0, 1000), weights_of_3)
@settings(max_examples=120, deadline=None)
def test_class_weights_share_the_epoch_out(size, seed, epoch, weights):
    some = view(*size)
    present = np.bincount(some.labels, minlength=3) > 0
    weights = np.where(present, weights, 0)
    if not weights.any():
        with pytest.raises(DataError, match="one of them above"):
            some.epoch(seed, epoch, weights)
        return
    order = some.epoch(seed, epoch, tuple(weights.tolist()))
    assert order.shape == some.epoch(seed, epoch).shape
    assert order.dtype == np.int64
    expected = len(some) * weights / weights.sum()
    found = np.bincount(some.labels[order], minlength=3)
    assert (np.abs(found - expected) < 1).all(), "rounded up or down"
    times = np.bincount(order, minlength=len(some.labels))
    for label in np.flatnonzero(present):
        assert np.ptp(times[some.labels == label]) <= 1, "no image again before each of its class was drawn"


def test_class_weights_are_met_on_average():
    some = view(10, 0, 3)  # labels 0 1 2 0 1 2 0 1 2 0
    total = sum(np.bincount(some.labels[some.epoch(5, e, (1, 2, 4))], minlength=3) for e in range(2000))
    assert total / 2000 == pytest.approx(13 * np.array([1, 2, 4]) / 7, abs=0.05)  # 5 standard errors of +-1/2
    images = sum(np.bincount(some.epoch(5, e, (1, 2, 4)), minlength=10) for e in range(2000))
    assert images[[0, 3, 6, 9]] / 2000 == pytest.approx(np.full(4, 13 / 7 / 4), abs=0.06), "all images of a class alike"


@given(sizes, seeds, weights_of_3)
@settings(max_examples=80, deadline=None)
def test_weighted_images_stay_at_their_steps(size, seed, weights):
    some = view(*size)
    weights = np.where(np.bincount(some.labels, minlength=3) > 0, weights, 0) + 0.0
    if not weights.any():
        return
    before, after = some.epoch(seed, 3), some.epoch(seed, 3, weights)
    times = [np.bincount(order, minlength=len(some.labels)) for order in (before, after)]
    assert (before == after).sum() >= np.minimum(*times).sum()


def test_the_counts_as_weights_change_nothing():
    some = view(30, 5, 5)
    assert (some.epoch(1, 2, np.bincount(some.labels)) == some.epoch(1, 2)).all()
    assert (some.epoch(1, 2, (1, 1, 5)) == some.epoch(1, 2, (10, 10, 50))).all()
    assert (some.epoch(1, 2, (1, 1, 5)) != some.epoch(1, 3, (1, 1, 5))).any()


def test_class_weights_that_make_no_sense_are_refused():
    some = view(9, 0, 0)
    for weights in ((1, -1, 1), (0, 0, 0), (1, np.nan, 1), (np.inf, 1, 1)):
        with pytest.raises(DataError, match="at least 0"):
            some.epoch(0, 1, weights)
    for weights in ((1, 1), (1, 1, 1, 1)):
        with pytest.raises(DataError, match=r"classes with \[3, 3, 3"):
            some.epoch(0, 1, weights)
    assert (some.epoch(0, 1, (1, 1, 1, 0)) == some.epoch(0, 1, (1, 1, 1))).all()


def weighted_view(num_real: int, num_extra: int, num_slots: int, weights: list[float]) -> TrainingView:
    some = view(num_real, num_extra, num_slots)
    return TrainingView(some.real, some.extra, some.num_slots, np.array(weights, np.float64))


def mean_times(some: TrainingView, num_epochs: int, class_weights=None) -> np.ndarray:
    orders = [some.epoch(7, epoch, class_weights) for epoch in range(num_epochs)]
    assert {len(order) for order in orders} == {len(some)}, "as many images as without weights"
    return sum(np.bincount(order, minlength=len(some.labels)) for order in orders) / num_epochs


def test_images_are_shown_in_proportion_to_their_weights():
    weights = [1, 1, 1, 4, 4, 0.5, 1, 2]
    some = weighted_view(6, 2, 5, weights)
    without = np.array([*[1 + 3 / 6] * 6, 1, 1])  # three slots that the arm leaves empty
    expected = without * weights / (without * weights).sum() * len(some)
    assert mean_times(some, 3000) == pytest.approx(expected, abs=0.06)  # 5 standard errors of at most 1/2, and fillers
    assert mean_times(some, 10).sum() == pytest.approx(len(some))


def test_class_weights_and_weights_of_images_multiply():
    """Classes have the shares of the class weights; within a class an image of weight 3 is shown thrice as often."""
    some = weighted_view(6, 0, 30, [1, 1, 1, 3, 1, 1])  # labels 0 1 2 0 1 2
    for epoch in range(20):
        labels = some.labels[some.epoch(1, epoch, (1, 2, 0))]
        assert np.bincount(labels, minlength=3).tolist() == [12, 24, 0]
    assert mean_times(some, 2000, (1, 2, 0)) == pytest.approx([3, 12, 0, 9, 12, 0], abs=0.06)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_equal_weights_change_nothing(size, seed):
    num_real, num_extra, num_slots = size
    equal = weighted_view(num_real, num_extra, num_slots, [2.5] * (num_real + num_extra))
    assert (equal.epoch(seed, 3) == view(*size).epoch(seed, 3)).all()
    assert (equal.counts(3) == view(*size).counts(3)).all()


def test_counts_follow_the_weights():
    assert weighted_view(6, 0, 0, [1, 1, 1, 3, 1, 1]).counts(4).tolist() == [3, 2, 2, 0]  # 4 : 2 : 2, of 6 in all
    assert weighted_view(3, 0, 0, [1000, 1, 1]).counts(3).tolist() == [3, 1, 1]
    assert view(6, 1, 1).counts(4).tolist() == [3, 2, 2, 0]


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 0], [1, 1, np.nan], [1, 1, -1], [1, 1, np.inf]])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(DataError, match="above 0, one for each of 3"):
        weighted_view(3, 0, 0, weights)


def test_batches_follow_the_weighted_order():
    some = view(7, 2, 3)
    order = some.epoch(5, 1, (1, 0, 3))
    batches = list(some.batches(5, 1, 4, class_weights=(1, 0, 3)))
    assert [len(batch.labels) for batch in batches] == [4, 3, 3]
    assert np.concatenate([batch.inputs[:, 0] for batch in batches]).tolist() == order.tolist()
    assert all((batch.labels != 1).all() for batch in batches)


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
    assert [len(batch.labels) for batch in batches] == sizes
    assert len(batches) == small.num_steps(batch, limit)
    order = small.epoch(5, 1)
    for each in batches:
        assert (each.inputs[:, 0] == order[each.place]).all()
        assert (each.labels == order[each.place] % 3).all()
        assert each.metadata is each.masks is None
    assert batches[-1].place.stop == sum(sizes)


def test_metadata_and_masks_stay_beside_their_images():
    def pictures(first: int, number: int) -> Examples:
        numbers = np.arange(first, first + number, dtype=np.uint8)
        pixels = np.broadcast_to(numbers[:, None, None, None], (number, 4, 4, 3)).copy()
        return Examples(pixels, numbers % 2, np.float32(numbers[:, None] * [1, 10]), pixels[..., 0] * 2)

    both = TrainingView(pictures(0, 9), pictures(9, 3), 5)
    for weights in (None, (1, 3)):
        for batch in both.batches(3, 1, 4, class_weights=weights):
            numbers = batch.inputs[:, 0, 0, 0]
            assert batch.masks is not None
            assert (batch.masks == numbers[:, None, None] * 2).all()
            assert batch.metadata is not None
            assert (batch.metadata == numbers[:, None] * [1, 10]).all()
            assert (batch.labels == numbers % 2).all()


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
