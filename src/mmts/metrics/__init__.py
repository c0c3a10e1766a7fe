"""Metrics of retrieval and of classification: functions of a similarity matrix and of what is right in it; a tie counts
as a miss.
"""

from mmts.metrics.bootstrap import bootstrap_interval as bootstrap_interval
from mmts.metrics.bootstrap import paired_bootstrap_interval as paired_bootstrap_interval
from mmts.metrics.bootstrap import per_class_bootstrap_interval as per_class_bootstrap_interval
from mmts.metrics.bootstrap import seeded_bootstrap_interval as seeded_bootstrap_interval
from mmts.metrics.classification import mean_per_class as mean_per_class
from mmts.metrics.classification import top_classes as top_classes
from mmts.metrics.classification import top_k_accuracy as top_k_accuracy
from mmts.metrics.graded import GradedScores as GradedScores
from mmts.metrics.graded import average_precision as average_precision
from mmts.metrics.graded import graded_scores as graded_scores
from mmts.metrics.graded import mean_average_precision as mean_average_precision
from mmts.metrics.graded import ndcg as ndcg
from mmts.metrics.graded import ndcg_per_query as ndcg_per_query
from mmts.metrics.ranks import mean_rank as mean_rank
from mmts.metrics.ranks import median_rank as median_rank
from mmts.metrics.ranks import ranks as ranks
from mmts.metrics.ranks import recall_at_k as recall_at_k
