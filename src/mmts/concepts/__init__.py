"""From captions or labels to concepts and their sizes, or to the density around each caption."""

from mmts.concepts.density import density_shift, neighbour_counts
from mmts.concepts.distribution import ConceptDistribution
from mmts.concepts.kmeans import assign_rows, resolve_num_concepts, sampled_centroids

__all__ = [
    "ConceptDistribution",
    "assign_rows",
    "density_shift",
    "neighbour_counts",
    "resolve_num_concepts",
    "sampled_centroids",
]
