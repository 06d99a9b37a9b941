"""`ItemIndex`: finds the items that probably score highest, without scoring all of them. For very large catalogues.

Items are put into lists around centroids (k-means), and what is left of an item after its centroid is stored in 4 bits
per two dimensions (product quantisation, Jegou et al. 2011; scanned by FAISS in registers, Andre et al. 2015). A
request reads the lists whose centroids have the largest inner products with its vector, takes the best codes as
candidates, and `ranking` scores these exactly, with the vectors of the model:

    index    user vector -> the `probes` best of N lists -> C candidates by code
    ranking  C candidates -> without seen and refused items -> exact scores -> the best k

So a listed score is the model's own, an excluded item is never listed, and a list has k items wherever k are left. What
is approximate is only whether every one of the best k is there. `tuned` measures that against exact ranking, on user
vectors of your own, and sets the effort to reach a recall.

On disk an index is arrays in one safetensors file, checked before FAISS sees them. FAISS' own files are not used: its
reader trusts what it reads, and model directories come from anywhere.

Shapes   B users, K interests, D width, I items, C candidates, N lists, M = D / 2 pairs of dimensions (an odd D gets
         one more, of zeros).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from guiderec.data.batch import PADDING
from guiderec.errors import CheckpointError, ConfigError
from guiderec.evaluation.ranking import BLOCK_SCORES, RunningTopK, from_candidates
from guiderec.files import replacing
from guiderec.models.base import EmbeddingRecommender, Recommender, ranks_by_vectors
from guiderec.rng import key_of, numpy_generator

FORMAT = 1
"""Version of the file."""
FILE = "index.safetensors"
WEIGHTS = "weights.safetensors"
"""The weights of a model directory, beside which an index lies."""
ANEW = "build the index anew: guiderec index RUN --data SPLIT --overwrite"
_ARRAYS = ("centroids", "codewords", "sizes", "items", "codes", "witnesses", "witness_vectors")
LEAST_ITEMS = 1_000
"""A smaller catalogue fits one block of exact scores, and no index is quicker."""
BITS = 4
CODEWORDS = 1 << BITS
_BLOCK = 1 << 15
"""Items assigned and encoded at a time."""
_POINTS_PER_LIST = 39
"""Items that k-means sees per list: the least that FAISS takes without a warning, and more change little."""
_ROUNDS = 10
_NO_GAIN = 1e-4
"""Recall that twice as many lists must bring, for `tuned` to try still more."""
_REFINE = (10, 40, 160)
"""Candidates per wanted item that `tuned` tries: of ten million items, 40 miss 2 % however many lists are read."""
_WITNESSES = 64
"""Item vectors stored with an index, by which one made of other vectors is recognised."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Codes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Lists:
    """The items, in lists around centroids, as codes. Arrays only: this is what is stored."""

    centroids: Floats
    """(N, D), D made even."""
    codewords: Floats
    """(M, 16, 2): codeword c of pair m."""
    sizes: Ids
    """(N,) items of each list."""
    items: Ids
    """(I,) item ids, list by list."""
    codes: Codes
    """(I, M / 2 rounded up) two 4-bit codes per byte, in the order of `items`."""

    @property
    def nbytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in vars(self).values())

    @cached_property
    def sha256(self) -> str:
        """Of all arrays."""
        digest = hashlib.sha256()
        for array in vars(self).values():
            digest.update(array.data)
        return digest.hexdigest()


class ItemIndex:
    """An index over item vectors (I + 1, D), for one model.

    >>> index = ItemIndex.build(item_vectors(model.recommender))               # doctest: +SKIP
    >>> model.recommender.index = index.tuned(users, k=100, recall=0.99)       # doctest: +SKIP

    The vectors are not copied. When they change (training), the index must be built anew.

    Parameters
    ----------
    vectors
        (I + 1, D) on the CPU, row 0 padding; what candidates are scored with.
    probes
        Lists that a request reads, 1..N; more find more and cost more.
    refine
        Candidates per wanted item that are scored exactly, from 1 on.
    measured
        What `tuned` measured: `k`, `recall` (mean over users) and `users`.
    """

    def __init__(
        self,
        vectors: Tensor,
        lists: Lists,
        *,
        probes: int,
        refine: int = 10,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        self.vectors = vectors
        self.lists = lists
        self._searcher, self._coarse = _searcher(lists)
        self._set_effort(probes, refine, measured)

    def _set_effort(self, probes: int, refine: int, measured: Mapping[str, float] | None) -> None:
        if not 1 <= probes <= self.n_lists:
            raise ConfigError(f"probes = {probes}: the index has {self.n_lists:,} lists, of which 1 to all are read.")
        if refine < 1:
            raise ConfigError(f"refine = {refine}: at least 1 candidate per item is needed.")
        self.probes, self.refine, self.measured = probes, refine, measured

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.lists.items)

    @property
    def n_lists(self) -> int:
        """N."""
        return len(self.lists.centroids)

    def describe(self) -> dict[str, Any]:
        """What answers depend on, as plain data."""
        return {"sha256": self.lists.sha256, "probes": self.probes, "refine": self.refine}

    @classmethod
    def build(cls, vectors: Tensor, *, lists: int | None = None, seed: int = 0) -> Self:
        """An index of item vectors (I + 1, D). A request reads 1/32 of the lists, until `tuned` says better.

        Time goes with I x lists x D; without `lists`, 3 sqrt(I) of them are made, rounded to a power of two. The same
        vectors and seed give the same index.

        Raises
        ------
        ConfigError
            For fewer than `LEAST_ITEMS` items, vectors that are not finite or not on the CPU, a number of lists that
            leaves them less than 39 items on average, and without FAISS installed.
        """
        _check_vectors(vectors)
        n_items = len(vectors) - 1
        most = n_items // _POINTS_PER_LIST
        n_lists = min(most, 1 << round(math.log2(3 * math.sqrt(n_items)))) if lists is None else lists
        if not 1 <= n_lists <= most:
            raise ConfigError(f"lists = {n_lists:,}: of {n_items:,} items at most {most:,} lists can be made.")
        drawn = numpy_generator(seed, "index").permutation(n_items)[: n_lists * _POINTS_PER_LIST] + 1
        sample = _even(vectors[torch.from_numpy(np.sort(drawn))])
        centroids = _kmeans(sample, n_lists, seed)
        codewords = _codewords(sample - centroids[_nearest(sample, centroids)])
        owner, codes = _encoded(vectors, centroids, codewords)
        order = np.argsort(owner, kind="stable")
        sizes = np.bincount(owner, minlength=n_lists).astype(np.int64)
        found = Lists(centroids, codewords, sizes, (order + 1).astype(np.int64), np.ascontiguousarray(codes[order]))
        return cls(vectors, found, probes=max(1, n_lists // 32))

    def with_effort(self, probes: int, refine: int) -> Self:
        """The same index, nothing copied, under another effort."""
        other = copy.copy(self)
        other._set_effort(probes, refine, None)
        return other

    def tuned(self, users: Tensor, *, k: int = 100, recall: float = 0.99) -> Self:
        """The same index with the least effort that reaches a recall@k against exact ranking, for users (B, K, D).

        Take some hundred user vectors of real requests: the recall is that of requests like these. `measured` of the
        result says what it was.

        Raises
        ------
        ConfigError
            If no effort reaches the recall: then the vectors have too little structure for an index, and exact ranking
            is the better choice.
        """
        if not 0 < recall <= 1:
            raise ConfigError(f"recall = {recall}: expected a number above 0 and up to 1.")
        users = users.detach().to("cpu", torch.float32)
        truth = exact_items(self.vectors, users, k)
        best = 0.0
        for refine in _REFINE:
            before = -1.0
            for probes in _doubling(self.n_lists):
                tried = self.with_effort(probes, refine)
                reached = recall_of(from_candidates(tried, users, k).items, truth)
                if reached >= recall:
                    tried.measured = {"k": k, "recall": round(reached, 4), "users": len(users)}
                    return tried
                if reached - before < _NO_GAIN:  # more lists bring nothing: their items are lost among the candidates
                    break
                best, before = max(best, reached), reached
        raise ConfigError(
            f"No effort of this index reaches recall@{k} = {recall:g}; the best was {best:.4f}.",
            hint="rank exactly; vectors without structure have no better way",
        )

    # -------------------------------------------------------------------------------------------- what ranking asks

    def candidates(self, users: Tensor, count: int, *, effort: int = 1) -> Tensor:
        """(B, K x count) items that probably score high for one of the vectors (B, K, D); 0 where no more was found.

        `effort` times as many lists are read. Columns are in no order, and an item may occur once per interest.
        """
        parameters = _faiss().SearchParametersIVF(nprobe=min(self.probes * effort, self.n_lists))
        wanted = _even(users.reshape(-1, users.shape[2]))
        found = self._searcher.search(wanted, min(count, self.n_items), params=parameters)[1]
        return torch.from_numpy(np.maximum(found, PADDING)).view(len(users), -1)  # FAISS says -1 for none

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, K, C) inner products of users (B, K, D) with the vectors of items (B, C), exact."""
        if self.vectors.dtype != torch.float32 or not self.vectors.is_contiguous():
            pairs = zip(users, items, strict=True)
            return torch.stack([user @ self.vectors[row].to(users.dtype).T for user, row in pairs])
        faiss = _faiss()  # reads the vectors where they are: several times quicker than gathering them first
        rows, interests, width = users.shape
        flat = users.reshape(-1, width).to(torch.float32).contiguous().numpy()
        wanted = items.repeat_interleave(interests, dim=0).contiguous().numpy()
        products = np.empty(wanted.shape, dtype=np.float32)
        pointers = map(faiss.swig_ptr, (products, flat, self.vectors.detach().numpy(), wanted))
        faiss.fvec_inner_products_by_idx(*pointers, width, len(flat), wanted.shape[1])
        return torch.from_numpy(products).view(rows, interests, -1)

    # -------------------------------------------------------------------------------------------- on disk

    def save(self, folder: str | Path) -> None:
        """Write `index.safetensors` to a folder, best that of the model. The file appears whole or not at all.

        Where the folder holds weights, the index remembers their digest, and is refused beside any others.
        """
        witnesses = np.unique(np.linspace(1, self.n_items, _WITNESSES).astype(np.int64))
        arrays = {
            **vars(self.lists),
            "witnesses": witnesses,
            "witness_vectors": _even(self.vectors[torch.from_numpy(witnesses)]),
        }
        path, weights = Path(folder) / FILE, Path(folder) / WEIGHTS
        about = {
            "format": FORMAT,
            "probes": self.probes,
            "refine": self.refine,
            "measured": self.measured,
            "weights": _sha256(weights) if weights.exists() else None,
        }
        kept = {name: arrays[name] for name in _ARRAYS}
        with replacing(path) as temporary:
            try:
                save_file(kept, temporary, metadata={"guiderec.index": json.dumps(about)})
            except SafetensorError as error:  # a full disk, among others: it wraps what the system said
                raise CheckpointError(f"{path}: cannot be written ({error}).") from None

    @classmethod
    def load(cls, folder: str | Path, vectors: Tensor) -> Self:
        """The index that `save` wrote to a folder, for the vectors (I + 1, D) that it was built of.

        The file may come from anywhere: every array is checked before FAISS sees it.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, of another version, does not fit the vectors, or was stored beside other
            weights than those in the folder.
        """
        path = Path(folder) / FILE
        _check_vectors(vectors)
        about, arrays = _read(path, vectors)
        _check_weights(path, about.pop("weights"))
        witnesses = arrays.pop("witnesses")
        now = _even(vectors[torch.from_numpy(witnesses)])
        if not np.allclose(arrays.pop("witness_vectors"), now, rtol=1e-3, atol=1e-3 * float(np.abs(now).max())):
            raise CheckpointError(f"{path}: was built of other item vectors than these.", hint=ANEW)
        try:
            return cls(vectors, Lists(**arrays), **about)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from None


def attach(recommender: Recommender, folder: str | Path) -> None:
    """Make the lists of a model through the index in a folder, from now on.

    Raises
    ------
    ConfigError
        For a model that does not rank by inner product.
    CheckpointError
        As `ItemIndex.load`.
    """
    recommender_of_vectors(recommender).index = ItemIndex.load(folder, item_vectors(recommender))


def item_vectors(recommender: Recommender) -> Tensor:
    """(I + 1, D) on the CPU, of a model that ranks by inner product; ConfigError for any other."""
    with torch.inference_mode():
        return recommender_of_vectors(recommender).item_vectors().detach().cpu().contiguous()


def recommender_of_vectors(recommender: Recommender) -> EmbeddingRecommender:
    """The model itself, if it ranks by inner product; else a ConfigError."""
    if ranks_by_vectors(recommender):
        return recommender
    raise ConfigError(f"{type(recommender).__name__} does not rank by inner product, so an index cannot serve it.")


def exact_items(vectors: Tensor, users: Tensor, k: int) -> Tensor:
    """(B, k) the best items of vectors (I + 1, D) for users (B, K, D), by scoring all of them in blocks."""
    listing = RunningTopK(k, None, None)
    block = max(1, BLOCK_SCORES // max(1, users.shape[0] * users.shape[1]))
    for first in range(1, len(vectors), block):
        products = users.reshape(-1, users.shape[2]) @ vectors[first : first + block].to(users.dtype).T
        listing.add(first, products.view(*users.shape[:2], -1).amax(dim=1))
    return listing.items


def recall_of(found: Tensor, truth: Tensor) -> float:
    """Mean share of the items of each row of `truth` (B, k) that are in the same row of `found` (B, k)."""
    return float((truth[:, :, None] == found[:, None, :]).any(dim=2).double().mean())


def _doubling(most: int) -> Iterator[int]:
    """1, 2, 4, ... and `most`."""
    probes = 1
    while probes < most:
        yield probes
        probes *= 2
    yield most


# ------------------------------------------------------------------------------------------------ making


def _check_vectors(vectors: Tensor) -> None:
    """ConfigError unless these are (I + 1, D) finite vectors on the CPU, and enough."""
    if vectors.ndim != 2 or vectors.device.type != "cpu":
        raise ConfigError(
            f"An index takes vectors (I + 1, D) on the CPU, got {tuple(vectors.shape)} on {vectors.device}."
        )
    if len(vectors) - 1 < LEAST_ITEMS:
        raise ConfigError(
            f"An index needs at least {LEAST_ITEMS:,} items, got {len(vectors) - 1:,}.",
            hint="build none, and leave --index out: all items are scored, which is quick for so few",
        )
    for first in range(1, len(vectors), _BLOCK):
        finite = vectors[first : first + _BLOCK].isfinite().all(dim=1)
        if not finite.all():
            raise ConfigError(f"The vector of item {first + int((~finite).nonzero()[0])} is not finite.")


def _even(vectors: Tensor) -> Floats:
    """(n, D) as float32, with a column of zeros if D is odd: codes are of pairs of dimensions."""
    padded = torch.nn.functional.pad(vectors.detach().to(torch.float32), (0, vectors.shape[1] % 2))
    return padded.contiguous().numpy()


def _kmeans(sample: Floats, lists: int, seed: int) -> Floats:
    """(N, D) centroids."""
    faiss = _faiss()
    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.seed = _ROUNDS, key_of(seed, "k-means") % (1 << 31)
    clustering = faiss.Clustering(sample.shape[1], lists, parameters)
    clustering.train(sample, faiss.IndexFlatL2(sample.shape[1]))
    return faiss.vector_to_array(clustering.centroids).reshape(lists, -1)


def _nearest(vectors: Floats, centroids: Floats) -> Ids:
    """(n,) list of each vector (n, D): that of the nearest centroid."""
    found = _faiss().IndexFlatL2(centroids.shape[1])
    found.add(centroids)
    return found.search(vectors, 1)[1][:, 0]


def _codewords(residuals: Floats) -> Floats:
    """(M, 16, 2) codewords of what is left of vectors (n, D) after their centroids."""
    quantizer = _quantizer(residuals.shape[1])
    quantizer.train(residuals)
    return _faiss().vector_to_array(quantizer.centroids).reshape(-1, CODEWORDS, 2)


def _encoded(vectors: Tensor, centroids: Floats, codewords: Floats) -> tuple[Ids, Codes]:
    """List (I,) and codes (I, M / 2) of every item."""
    faiss = _faiss()
    quantizer = _quantizer(centroids.shape[1])
    faiss.copy_array_to_vector(codewords.ravel(), quantizer.centroids)
    owners, codes = [], []
    for first in range(1, len(vectors), _BLOCK):
        block = _even(vectors[first : first + _BLOCK])
        owner = _nearest(block, centroids)
        owners.append(owner)
        codes.append(quantizer.compute_codes(block - centroids[owner]))
    return np.concatenate(owners), np.concatenate(codes)


def _quantizer(width: int) -> Any:
    return _faiss().ProductQuantizer(width, width // 2, BITS)


def _searcher(lists: Lists) -> tuple[Any, Any]:
    """FAISS' searcher over these lists, and its chooser of lists, to which it holds a bare pointer.

    Lists are made by distance and chosen by inner product: those of long vectors are then read for more requests.
    """
    faiss = _faiss()
    width = lists.centroids.shape[1]
    coarse = faiss.IndexFlatIP(width)
    coarse.add(lists.centroids)
    plain = faiss.IndexIVFPQ(coarse, width, len(lists.centroids), width // 2, BITS, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(lists.codewords.ravel(), plain.pq.centroids)
    start = 0
    for number, size in enumerate(lists.sizes.tolist()):
        items, codes = lists.items[start : start + size], lists.codes[start : start + size]
        plain.invlists.add_entries(number, size, faiss.swig_ptr(items), faiss.swig_ptr(codes))
        start += size
    plain.ntotal, plain.is_trained = len(lists.items), True
    return faiss.IndexIVFPQFastScan(plain), coarse


def require_faiss() -> None:
    """ConfigError where FAISS is not installed."""
    _faiss()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError("An index of items needs FAISS.", hint="pip install 'guiderec[ann]'") from None
    return faiss


# ------------------------------------------------------------------------------------------------ reading


def _read(path: Path, vectors: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Effort and arrays of a file, all checked."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = _about(path, file.metadata() or {})
            _check_shapes(path, {name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype())
                                 for name in file.keys()}, vectors)  # fmt: skip  # noqa: SIM118  not a mapping
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    except FileNotFoundError:
        run = path.parent.parent if path.parent.name == "model" else path.parent
        raise CheckpointError(
            f"{path}: there is no such file.",
            hint=f"guiderec index {run} --data SPLIT builds it; without --index all items are scored",
        ) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}).", hint="it is damaged") from None
    _check_values(path, arrays, len(vectors) - 1)
    return about, arrays


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata["guiderec.index"])
        version, effort = about["format"], {name: about[name] for name in ("probes", "refine")}
        measured, weights = about["measured"], about.get("weights")
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path}: not an index of items written by this package.") from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: format {version!r}, this version reads format {FORMAT}.", hint="build it anew")
    whole = all(type(value) is int for value in effort.values())
    if not whole or not isinstance(measured, dict | None) or not all(map(_is_number, (measured or {}).values())):
        raise CheckpointError(
            f"{path}: probes and refine must be whole numbers, and what was measured numbers; found "
            f"{effort} and {measured}."
        )
    return {**effort, "measured": measured, "weights": weights}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _check_weights(path: Path, stored: object) -> None:
    """CheckpointError where the weights beside an index are not those that it was stored beside.

    Witnesses alone would let pass what training changed little or in few items only.
    """
    weights = path.with_name(WEIGHTS)
    if stored is not None and weights.exists() and (found := _sha256(weights)) != stored:
        raise CheckpointError(
            f"{path}: is stale: it was built for the weights {str(stored)[:12]}, and those beside it are {found[:12]}.",
            hint=ANEW,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_shapes(path: Path, found: Mapping[str, tuple[Sequence[int], str]], vectors: Tensor) -> None:
    """Types and sizes, from the header alone."""
    n_items, width = len(vectors) - 1, vectors.shape[1] + vectors.shape[1] % 2
    lists = found["sizes"][0][0] if found.get("sizes", ([], ""))[0] else 0
    witnesses = found["witnesses"][0][0] if found.get("witnesses", ([], ""))[0] else 0
    expected: dict[str, tuple[list[int], str]] = {
        "centroids": ([lists, width], "F32"),
        "codewords": ([width // 2, CODEWORDS, 2], "F32"),
        "sizes": ([lists], "I64"),
        "items": ([n_items], "I64"),
        "codes": ([n_items, (width // 2 + 1) // 2], "U8"),
        "witnesses": ([witnesses], "I64"),
        "witness_vectors": ([witnesses, width], "F32"),
    }
    if found.keys() != expected.keys():
        raise CheckpointError(f"{path}: expected the arrays {', '.join(expected)}, found {', '.join(sorted(found))}.")
    for name, (shape, kind) in expected.items():
        if (list(found[name][0]), found[name][1]) != (shape, kind):
            raise CheckpointError(
                f"{path}: '{name}' must be {kind} of shape {tuple(shape)} for {n_items:,} items of width "
                f"{vectors.shape[1]}, found {found[name][1]} of shape {tuple(found[name][0])}.",
                hint="it is the index of another model, or damaged",
            )


def _check_values(path: Path, arrays: Mapping[str, Any], n_items: int) -> None:
    sizes, items, witnesses = arrays["sizes"], arrays["items"], arrays["witnesses"]
    # Each size is checked before they are summed: a sum of int64 could wrap around.
    sound = {
        "sizes": len(sizes) > 0 and sizes.min() >= 0 and sizes.max() <= n_items and sizes.sum() == n_items,
        "items": items.min() >= 1 and items.max() <= n_items and np.bincount(items).max() == 1,
        "witnesses": len(witnesses) > 0 and witnesses.min() >= 1 and witnesses.max() <= n_items,
        "centroids": np.isfinite(arrays["centroids"]).all(),
        "codewords": np.isfinite(arrays["codewords"]).all(),
        "witness_vectors": np.isfinite(arrays["witness_vectors"]).all(),
    }
    if wrong := [name for name, is_sound in sound.items() if not is_sound]:
        raise CheckpointError(f"{path}: {', '.join(wrong)} hold impossible values.", hint="it is damaged")
