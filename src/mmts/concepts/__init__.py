"""From captions or labels to concepts and their sizes: `ConceptDistribution`."""

from mmts.concepts.distribution import ConceptDistribution, resolve_num_concepts

__all__ = ["ConceptDistribution", "resolve_num_concepts"]
