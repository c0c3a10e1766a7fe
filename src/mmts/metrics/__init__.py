"""Metrics of retrieval and of classification: functions of a similarity matrix and of what is right in it; a tie counts
as a miss.
"""

from mmts.metrics.bootstrap import (
    bootstrap_interval,
    paired_bootstrap_interval,
    per_class_bootstrap_interval,
    seeded_bootstrap_interval,
)
from mmts.metrics.classification import mean_per_class, top_classes, top_k_accuracy
from mmts.metrics.graded import (
    GradedScores,
    average_precision,
    graded_scores,
    mean_average_precision,
    ndcg,
    ndcg_per_query,
)
from mmts.metrics.ranks import mean_rank, median_rank, ranks, recall_at_k

__all__ = [
    "GradedScores",
    "average_precision",
    "bootstrap_interval",
    "graded_scores",
    "mean_average_precision",
    "mean_per_class",
    "mean_rank",
    "median_rank",
    "ndcg",
    "ndcg_per_query",
    "paired_bootstrap_interval",
    "per_class_bootstrap_interval",
    "ranks",
    "recall_at_k",
    "seeded_bootstrap_interval",
    "top_classes",
    "top_k_accuracy",
]
