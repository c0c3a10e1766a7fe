"""Metrics of retrieval: functions of a similarity matrix and the relevance of its items; a tie counts as a miss."""

from mmts.metrics.bootstrap import bootstrap_interval, paired_bootstrap_interval, seeded_bootstrap_interval
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
    "mean_rank",
    "median_rank",
    "ndcg",
    "ndcg_per_query",
    "paired_bootstrap_interval",
    "ranks",
    "recall_at_k",
    "seeded_bootstrap_interval",
]
