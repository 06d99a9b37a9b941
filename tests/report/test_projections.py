from __future__ import annotations

import numpy as np
import pytest

from guiderec.report.projections import Coverage, coverage, pca, sample, tsne


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Forty true and forty generated vectors in five dimensions, in two directions."""
    random = np.random.default_rng(0)
    return tuple(random.normal(size=(40, 5)) + 4 * np.eye(5)[axis] for axis in (0, 1))  # type: ignore[return-value]


def test_the_same_people_are_drawn_whatever_the_order_and_the_model() -> None:
    keys = np.arange(5_000, dtype=np.int64) << 20
    drawn = sample(keys, 300)
    assert len(set(drawn.tolist())) == 300
    assert (np.diff(drawn) > 0).all()
    shuffled = np.random.default_rng(0).permutation(keys)
    assert set(shuffled[sample(shuffled, 300)].tolist()) == set(keys[drawn].tolist())
    assert np.histogram(drawn, bins=5, range=(0, 5_000))[0].min() > 30  # from everywhere
    assert sample(keys[:20], 300).tolist() == list(range(20))


def test_rows_of_one_user_are_drawn_apart() -> None:
    """Names are user << 20 ^ position: positions must count, and not only users."""
    keys = (np.repeat(np.arange(10, dtype=np.int64), 100) << 20) ^ np.tile(np.arange(100), 10)
    per_user = np.bincount(sample(keys, 200) // 100, minlength=10)
    assert per_user.min() > 5
    assert per_user.max() < 50


def test_pca_is_the_singular_value_decomposition(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    found = pca(*clouds)
    both = np.concatenate(clouds)
    both /= np.sqrt((both**2).sum(axis=1, keepdims=True))
    centred = both - both.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.concatenate([found.true, found.generated])
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), atol=1e-10)
    share = values**2 / (values**2).sum()
    assert found.axes == tuple(f"Component {i + 1} ({100 * share[i]:.0f} % of the variance)" for i in range(2))


@pytest.mark.parametrize("project", [pca, tsne])
def test_clouds_that_are_apart_stay_apart_in_one_plane(clouds: tuple[np.ndarray, np.ndarray], project) -> None:
    found = project(*clouds)
    assert found.true.shape == found.generated.shape == (40, 2)
    points, label = np.concatenate([found.true, found.generated]), np.repeat([0, 1], 40)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (label[distances.argmin(axis=1)] == label).mean() > 0.9


@pytest.mark.parametrize("project", [pca, tsne])
def test_only_directions_count_and_the_same_call_gives_the_same_points(
    clouds: tuple[np.ndarray, np.ndarray], project
) -> None:
    first, again = project(*clouds), project(*clouds)
    assert (first.true == again.true).all()
    assert (first.generated == again.generated).all()
    longer = project(8 * clouds[0], 0.25 * clouds[1])  # powers of two: the directions are equal to the last bit
    assert (longer.true == first.true).all()


def test_densities_have_mass_one_and_overlap_where_the_clouds_do(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    def mass(density: np.ndarray, found: Coverage) -> float:
        return float(density.sum() * (found.x[1] - found.x[0]) * (found.y[1] - found.y[0]))

    random = np.random.default_rng(1)
    apart = coverage(*clouds)
    near = coverage(clouds[0], clouds[0] + 0.01 * random.normal(size=clouds[0].shape))
    for found in (apart, near):
        assert mass(found.items, found) == pytest.approx(1, abs=0.05)  # the tails beyond the grid are missing
        assert mass(found.generated, found) == pytest.approx(1, abs=0.05)
    assert near.overlap > 0.9
    assert apart.overlap < 0.4


def test_overlap_of_two_known_densities() -> None:
    """On a grid of unit cells: half of the mass at the same place."""
    grid = np.arange(2.0)
    items, generated = np.array([[0.5, 0.5], [0.0, 0.0]]), np.array([[0.0, 0.5], [0.0, 0.5]])
    assert Coverage(grid, grid, items, generated).overlap == 0.5
    assert Coverage(grid, grid, items, items).overlap == 1.0
