"""What is particular to noise, the control: it holds no picture of the disease."""

from pathlib import Path

import numpy as np
import pytest

from moulage.generators import noise

SIDE = 24


def lesions(num: int, seed: int) -> np.ndarray:
    """Images of a dark blob in the middle of coloured, grainy skin, uint8 [num, SIDE, SIDE, 3]; far from clipping."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    blob = np.exp(-(x**2 + y**2) / 20)[..., None] * np.array([-40, -30, 10])
    grain = rng.normal(0, 8, (num, SIDE, SIDE, 1)) @ np.array([[1.0, 0.6, -0.3]]) + rng.normal(0, 3, (num, 1, 1, 3))
    return np.round(np.array([150, 120, 110]) + blob + grain).astype(np.uint8)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Training images and as much noise as it takes to measure it."""
    real = lesions(60, 0)
    generator = noise.Generator(noise.Config(), ("AK",), SIDE)
    generator.fit(real, np.zeros(60, np.int64), seed=0, folder=tmp_path_factory.mktemp("noise"))
    return real.astype(float), generator.sample(0, np.arange(1500)).astype(float)


def power(images: np.ndarray) -> np.ndarray:
    """Mean power spectrum [S, S, 3] of images minus their common mean colour."""
    return (np.abs(np.fft.fft2(images - images.mean((0, 1, 2)), axes=(1, 2))) ** 2).mean(0)


def test_noise_has_the_mean_colour_and_the_colour_covariance(drawn: tuple[np.ndarray, np.ndarray]):
    real, images = drawn
    assert images.mean((0, 1, 2)) == pytest.approx(real.mean((0, 1, 2)), abs=0.6)
    expected = np.cov(real.reshape(-1, 3).T)
    assert expected[0, 1] > 50
    assert np.cov(images.reshape(-1, 3).T) == pytest.approx(expected, abs=0.03 * expected.max())


def test_noise_has_the_mean_power_spectrum(drawn: tuple[np.ndarray, np.ndarray]):
    real, images = drawn
    # 1,500 draws of a squared Gaussian: a relative error of 2.6 % (of the mean colour 3.7 %), 1,800 numbers.
    assert power(images) == pytest.approx(power(real), rel=0.17)


def test_noise_holds_no_lesion(drawn: tuple[np.ndarray, np.ndarray]):
    real, images = drawn
    middle = slice(SIDE // 2 - 2, SIDE // 2 + 2)

    def contrast(pictures: np.ndarray) -> float:
        return float(pictures[:, :4, :4, 0].mean() - pictures[:, middle, middle, 0].mean())

    assert contrast(real) > 30
    assert abs(contrast(images)) < 1.5
    # Uniform phases: the mean of exp(i phase) is 0 at every frequency that is not its own mirror image.
    spectrum = np.fft.fft2(images - images.mean((0, 1, 2)), axes=(1, 2))[:, 1 : SIDE // 2, 1 : SIDE // 2]
    assert np.abs((spectrum / np.abs(spectrum)).mean(0)).max() < 5 / np.sqrt(len(images))


def test_noise_measures_a_case_worked_by_hand():
    """Two images of one colour each: all power is at frequency 0, and its root there is that of a 3 x 3 covariance."""
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[0], images[1] = (10, 20, 30), (30, 20, 10)
    mean, root = noise.measure(images)
    assert mean.tolist() == [20, 20, 20]
    assert np.abs(root.reshape(-1, 3, 3)[1:]).max() == pytest.approx(0, abs=1e-5)
    # F(0) = 64 (-10, 0, 10) or its opposite; P(0) / 64 = 64 * 100 * [[1, 0, -1], [0, 0, 0], [-1, 0, 1]].
    expected = 80 * np.array([[1, 0, -1], [0, 0, 0], [-1, 0, 1]]) / np.sqrt(2)
    assert root[0, 0] == pytest.approx(expected, abs=1e-3)


def test_noise_draws_each_class_in_its_own_colour(tmp_path: Path):
    images = np.concatenate([lesions(20, 1), lesions(20, 2)[..., ::-1]])
    generator = noise.Generator(noise.Config(), ("AK", "DF"), SIDE)
    generator.fit(images, np.repeat([0, 1], 20), seed=0, folder=tmp_path)
    for label in (0, 1):
        found = generator.sample(label, np.arange(60)).mean((0, 1, 2))
        assert found == pytest.approx(images[20 * label : 20 * label + 20].mean((0, 1, 2)), abs=2.5)
