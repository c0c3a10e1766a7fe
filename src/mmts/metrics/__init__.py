"""Metrics of retrieval: functions of a similarity matrix and what is relevant; a tie counts against the model."""

from mmts.metrics.average_precision import average_precision, mean_average_precision
from mmts.metrics.bootstrap import bootstrap_interval, paired_bootstrap_interval
from mmts.metrics.ndcg import ndcg, ndcg_per_query
from mmts.metrics.ranks import median_rank, ranks, recall_at_k

__all__ = [
    "average_precision",
    "bootstrap_interval",
    "mean_average_precision",
    "median_rank",
    "ndcg",
    "ndcg_per_query",
    "paired_bootstrap_interval",
    "ranks",
    "recall_at_k",
]
