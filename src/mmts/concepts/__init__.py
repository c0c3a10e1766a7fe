"""From captions or labels to concepts and their sizes, or to the density around each caption."""

from mmts.concepts.density import density_shift as density_shift
from mmts.concepts.density import neighbour_counts as neighbour_counts
from mmts.concepts.distribution import ConceptDistribution as ConceptDistribution
from mmts.concepts.kmeans import assign_rows as assign_rows
from mmts.concepts.kmeans import resolve_num_concepts as resolve_num_concepts
from mmts.concepts.kmeans import sampled_centroids as sampled_centroids
