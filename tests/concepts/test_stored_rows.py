"""Rows on disk: the same concepts as in memory, from halves, in parts, after an interrupt, in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmts.concepts import ConceptDistribution, encoders
from mmts.concepts import kmeans as kmeans_module
from mmts.concepts.kmeans import assign_rows, clusters_of, kmeans, nearest, open_rows, sampled_centroids
from mmts.errors import DataError, InputError
from mmts.models.base import TextTower
from mmts.models.text_encoder import TextEncoder


def blobs(num=6, each=50, width=8, seed=0):
    """Rows of any norm in clear groups, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(num), each))
    rows = np.linalg.qr(rng.normal(size=(width, width)))[0][truth] + 0.05 * rng.normal(size=(len(truth), width))
    return (rows * rng.uniform(0.5, 2, (len(rows), 1))).astype(np.float16), truth


def pure(labels, truth):
    """Whether no cluster has rows of two groups; there are more clusters than groups, since one start is not enough."""
    return len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == len(set(labels.tolist()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", blobs()[0])
    return tmp_path / "rows.npy"


@pytest.fixture
def always_sampled(monkeypatch):
    """Cluster by a sample, as if any number of rows were more than k-means takes."""
    monkeypatch.setattr(kmeans_module, "SAMPLE", 0)


def sampled_kmeans(embeddings, num_concepts, seed=0):
    return clusters_of(open_rows(embeddings), num_concepts, seed=seed)


def test_a_sample_finds_the_groups_of_all_rows(file, always_sampled):
    found = sampled_kmeans(file, 40, seed=1)
    assert len(found.centroids) + found.num_dropped == 40
    assert pure(found.labels, blobs()[1])


def test_only_the_sample_is_looked_at(tmp_path):
    rows, _ = blobs()
    drawn = np.sort(np.random.default_rng(3).choice(len(rows), 40, replace=False, shuffle=False))
    expected = sampled_centroids(rows, 6, seed=3, sample=40)
    others = np.setdiff1d(np.arange(len(rows)), drawn)
    rows[others] = np.nan
    np.testing.assert_array_equal(sampled_centroids(rows, 6, seed=3, sample=40), expected)
    with pytest.raises(InputError, match=f"row {others[0]} of the embeddings is NaN or infinite"):
        assign_rows(rows, expected)


def test_twenty_steps_one_by_one_are_as_good_as_at_once(always_sampled):
    rows, _ = blobs()
    unit = open_rows(rows).read(slice(None))
    found, expected = sampled_kmeans(rows, 20), kmeans(unit, 20, restarts=1, iterations=20)
    loss = [((unit - each.centroids[each.labels]) ** 2).sum() for each in (found, expected)]
    assert loss[0] <= 1.1 * loss[1]


def test_weights_count_as_repeats():
    rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    found = sampled_centroids(rows, 1, weights=np.array([7, 1, 1, 1], np.float32))
    np.testing.assert_allclose(found[0], np.average(open_rows(rows).read(slice(None)), 0, [7, 1, 1, 1]), atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 37, 1000])
def test_labels_are_the_nearest_centroids_in_any_chunks_and_parts(file, monkeypatch, chunk):
    monkeypatch.setattr(kmeans_module, "_CHUNK", chunk)
    centroids = np.random.default_rng(1).normal(size=(9, 8)).astype(np.float32)
    expected = nearest(open_rows(file).read(slice(None)), centroids)[0]
    np.testing.assert_array_equal(assign_rows(file, centroids), expected)
    parts = [assign_rows(file, centroids, range(*each)) for each in ((0, 100), (100, 101), (101, 300))]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_an_interrupted_pass_goes_on_where_it_stopped(file, monkeypatch, private_cache, always_sampled):
    monkeypatch.setattr(kmeans_module, "_CHUNK", 40)
    centroids = sampled_centroids(file, 6)
    asked: list[int] = []
    whole_read = kmeans_module.StoredRows.read

    def read(rows, at):
        if len(asked) == 3:
            asked.clear()
            raise KeyboardInterrupt
        asked.append(at.start)
        return whole_read(rows, at)

    monkeypatch.setattr(kmeans_module.StoredRows, "read", read)
    with pytest.raises(KeyboardInterrupt):
        assign_rows(file, centroids)
    assert [each.suffix for each in (private_cache / "concepts").glob("*.partial")] == [".partial"]
    monkeypatch.setattr(
        kmeans_module.StoredRows, "read", lambda rows, at: asked.append(at.start) or whole_read(rows, at)
    )
    labels = assign_rows(file, centroids)
    assert asked == [120, 160, 200, 240, 280]
    np.testing.assert_array_equal(labels, nearest(whole_read(open_rows(file), slice(None)), centroids)[0])
    sampled_kmeans(file, 6)
    assert asked == [120, 160, 200, 240, 280]  # neither the sample nor the pass is done again


def test_other_rows_under_the_same_name_are_other_rows(file, always_sampled):
    first = sampled_kmeans(file, 40)
    np.save(file, blobs(seed=5)[0])
    second = sampled_kmeans(file, 40)
    assert pure(second.labels, blobs(seed=5)[1])
    assert not np.array_equal(first.labels, second.labels)


def test_a_distribution_of_a_file_is_that_of_its_captions(file):
    rows, truth = blobs()
    captions = [f"thing {group} number {i}" for i, group in enumerate(truth)]
    from_rows = ConceptDistribution.from_embeddings(
        file, 6, captions=captions, encoder=lambda texts: rows[: len(texts)]
    )
    expected = ConceptDistribution.from_captions(captions, 6, encoder=lambda texts: rows[: len(texts)])
    assert torch.equal(from_rows.labels, expected.labels)
    assert torch.equal(from_rows.sizes, expected.sizes)
    assert torch.equal(from_rows.centroids, expected.centroids)
    assert from_rows.names == expected.names
    from_rows.check_captions(captions)
    assert torch.equal(from_rows.assign(captions[:9]), expected.labels[:9])
    assert torch.equal(from_rows.assign(torch.from_numpy(rows)), expected.labels)


def test_many_rows_go_by_a_sample(file, monkeypatch):
    """As if 100 rows were more than k-means takes, for embeddings and for captions alike."""
    rows, truth = blobs()
    for module in (encoders, kmeans_module):
        monkeypatch.setattr(module, "SAMPLE", 100)
    captions = [f"thing {i:03}" for i in range(len(rows))]
    by_caption = dict(zip(captions, rows, strict=True))
    for d in (
        ConceptDistribution.from_embeddings(file, 40),
        ConceptDistribution.from_captions(captions, 40, encoder=lambda texts: [by_caption[text] for text in texts]),
        ConceptDistribution.from_captions(captions * 2, 40, encoder=lambda texts: [by_caption[text] for text in texts]),
    ):
        assert pure(d.labels[:300], truth)
        assert d.labels.bincount().tolist() == d.sizes.tolist() == sorted(d.sizes.tolist(), reverse=True)


def test_parts_of_many_machines_make_one_distribution(file, tmp_path):
    centroids = sampled_centroids(file, 6)
    parts = [assign_rows(file, centroids, part) for part in (range(120), range(120, 300))]
    joined = ConceptDistribution.from_clusters(np.concatenate(parts), centroids)
    assert torch.equal(joined.labels, ConceptDistribution.from_clusters(assign_rows(file, centroids), centroids).labels)
    assert joined.sizes.tolist() == sorted(joined.sizes.tolist(), reverse=True)
    joined.save(tmp_path / "concepts.npz")
    loaded = ConceptDistribution.load(tmp_path / "concepts.npz")
    assert torch.equal(loaded.assign(np.load(file)), joined.labels)
    with pytest.raises(InputError, match="of an unknown encoder"):
        loaded.assign(["a caption"])
    with pytest.raises(InputError, match=r"width 3.*width 8"):
        loaded.assign(np.ones((2, 3)))


def test_rows_of_many_captions_are_mapped_from_disk_not_copied(monkeypatch):
    class Tower(TextTower):
        name, width = "counts", 4

        def tokenize(self, captions):
            return {"length": torch.tensor([len(caption) for caption in captions])}

        def forward(self, tokens):
            return torch.eye(4)[tokens["length"]]

    encoder = TextEncoder("counts", "x", Tower())
    captions = ["a", "ccc", "bb", "a"]
    assert encoder(captions).argmax(1).tolist() == [1, 3, 2, 1]
    monkeypatch.setattr(encoders, "SAMPLE", 2)
    rows, occurrences, row_of = encoders.encode_distinct(captions, encoder)
    assert isinstance(rows, np.memmap)
    assert rows[row_of].argmax(1).tolist() == [1, 3, 2, 1]
    assert occurrences[row_of].tolist() == [2, 1, 1, 2]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "not a .npy file of numbers"),
        (lambda path: path.write_text("hello"), "not a .npy file of numbers"),
        (
            lambda path: np.save(path, np.ones(3, np.float32)),
            r"\(3,\) of float32; they must be \(N, W\) of float16 or float32",
        ),
        (lambda path: np.save(path, np.ones((3, 2))), "float64"),
        (lambda path: np.save(path, np.empty((0, 2), np.float16)), r"\(0, 2\) of float16"),
        (lambda path: np.save(path, np.array([object()])), "not a .npy file of numbers"),
    ],
)
def test_a_file_without_rows_is_named(tmp_path, write, says):
    write(tmp_path / "rows.npy")
    with pytest.raises(DataError, match=says) as raised:
        ConceptDistribution.from_embeddings(tmp_path / "rows.npy", 2)
    assert str(tmp_path / "rows.npy") in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda rows: ConceptDistribution.from_embeddings(rows, 301), "1 to 300, the number of rows"),
        (lambda rows: ConceptDistribution.from_embeddings(rows, 2, captions=["a"]), "1 captions and 300 rows"),
        (lambda rows: ConceptDistribution.from_embeddings(rows, 2, encoder="tfidf"), "from_captions"),
        (lambda rows: ConceptDistribution.from_embeddings(rows.astype(np.float64), 2), "float64"),
        (lambda rows: sampled_centroids(rows, 50, sample=40), "from 1 to 40"),
        (lambda rows: assign_rows(rows, np.ones((2, 3), np.float32)), r"\(K, 8\)"),
        (lambda rows: assign_rows(rows, np.ones((2, 8), np.float32), range(299, 301)), "consecutive rows of the 300"),
        (
            lambda rows: ConceptDistribution.from_clusters([0, 2], np.eye(2)),
            "row 1 is 2; it must be the number of a centroid, 0 to 1",
        ),
        (lambda rows: ConceptDistribution.from_clusters([0.0], np.eye(2)), "whole numbers"),
        (lambda rows: ConceptDistribution.from_clusters([0], np.ones(2)), r"they must be \(K, W\)"),
    ],
)
def test_what_cannot_be_is_said(wrong, says):
    with pytest.raises(InputError, match=says):
        wrong(blobs()[0])


MEASURE = """
import json, sys, numpy as np
from benchmarks.measure import peak_memory
from mmts.concepts import sampled_centroids, assign_rows
small = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float16)
assign_rows(small, sampled_centroids(small, 50))  # what the libraries allocate once
peak = peak_memory(lambda: assign_rows(sys.argv[1], sampled_centroids(sys.argv[1], 50, sample=20_000)))
print(json.dumps(peak))
"""


def test_memory_is_that_of_the_sample_not_of_the_rows(tmp_path):
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float16, (400_000, 64))
    for start in range(0, len(rows), 50_000):
        rows[start : start + 50_000] = np.random.default_rng(start).standard_normal((50_000, 64), np.float32)
    del rows
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "rows.npy")]
    root = Path(__file__).parents[2]
    peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout)
    # MiB. The file has 49, and its pages count for as long as nobody else needs the memory; in float32 it has 98.
    assert peak < 49 + 40
