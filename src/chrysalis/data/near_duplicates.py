"""Search for near-duplicates in a set: images saved twice, in two formats or at two qualities."""

from collections.abc import Iterator

import numpy as np

GRID = 8  # blocks per side whose mean colors are compared
MAX_BLOCK = 8  # grey levels between two blocks; JPEG at quality 50 differs by up to 7 from its original
MAX_MEAN = 6  # grey levels between two images on average; JPEG at quality 50 differs by up to 5 at 128 px
NEIGHBORS = 8  # examined per image; in a larger group, images are linked through others
CHUNK = 1024  # images in memory at once


def groups(images: np.ndarray) -> list[list[int]]:
    """Return groups of rows of `images`, uint8 [N, C, H, W]; each row is near another row of its group.

    Two images are near if no block of an 8 x 8 grid differs by more than MAX_BLOCK grey levels in any channel, and
    pixels differ by at most MAX_MEAN on average. Memory is proportional to N.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(images)
    if n < 2:
        return []
    blocks = np.concatenate([_blocks(images[start : start + CHUNK]) for start in range(0, n, CHUNK)])
    pairs = np.concatenate([_near(images, blocks, pairs) for pairs in _candidates(blocks)])
    if not len(pairs):
        return []
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (n, n))
    group = connected_components(links, directed=False)[1]
    rows = np.unique(pairs)
    rows = rows[np.argsort(group[rows], kind="stable")]
    found = np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1)
    return sorted(rows.tolist() for rows in found)


def _blocks(images: np.ndarray) -> np.ndarray:
    """Return the mean colors of the blocks of a grid: float32 [N, C * GRID * GRID], column by column."""
    down, across = (np.linspace(0, side, GRID + 1).astype(int) for side in images.shape[-2:])
    sums = np.add.reduceat(np.add.reduceat(images, down[:-1], axis=2, dtype=np.uint32), across[:-1], axis=3)
    means = sums.astype(np.float32) / np.outer(np.diff(down), np.diff(across)).astype(np.float32)
    return means.swapaxes(2, 3).reshape(len(images), -1)


def _candidates(blocks: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs of rows that may be near each other, int64 [M, 2], from a k-d tree of coarser block means."""
    from scipy.spatial import KDTree

    # rows with identical blocks are all neighbors of one another: pair each with the first only
    first: dict[bytes, int] = {}
    same = np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(blocks)])
    again = np.flatnonzero(same != np.arange(len(blocks)))
    yield np.stack([same[again], again], axis=1)

    distinct = np.flatnonzero(same == np.arange(len(blocks)))
    half = GRID // 2
    coarse = blocks[distinct].reshape(len(distinct), -1, half, 2, half, 2).mean(axis=(3, 5)).reshape(len(distinct), -1)
    tree = KDTree(coarse)
    for start in range(0, len(distinct), CHUNK):
        part = coarse[start : start + CHUNK]
        near = tree.query(part, NEIGHBORS + 1, p=np.inf, distance_upper_bound=MAX_BLOCK)[1]
        own = np.repeat(np.arange(start, start + len(part))[:, None], near.shape[1], axis=1)
        real = near < len(distinct)
        pairs = np.sort(np.stack([own[real], near[real]], axis=1), axis=1)
        yield distinct[np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)]


def _near(images: np.ndarray, blocks: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    pairs = pairs[(np.abs(blocks[pairs[:, 0]] - blocks[pairs[:, 1]]) <= MAX_BLOCK).all(axis=1)]
    kept = []
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        one, other = images[part[:, 0]], images[part[:, 1]]
        difference = np.maximum(one, other) - np.minimum(one, other)
        kept.append(part[difference.mean(axis=(1, 2, 3)) <= MAX_MEAN])
    return np.concatenate([np.empty((0, 2), np.int64), *kept])
