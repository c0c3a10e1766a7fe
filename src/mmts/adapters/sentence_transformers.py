"""A loss for SentenceTransformerTrainer: pairs of texts, or of images and texts with a CLIP model."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mmts.adapters.batch_loss import Rule, batch_loss
from mmts.adapters.huggingface import RuleCallback
from mmts.errors import InputError


class PairLoss(nn.Module):
    """The loss of a rule (an objective or MMTSLoss) on the pairs of a SentenceTransformerTrainer.

    The data set has two columns to embed, media then text (or anchor then positive), and a column named `label`: the
    pair's index, or for MMTSLoss the size of its concept; or both that and its medium's index, if pairs share media.
    The trainer needs `callbacks=[loss.callback]`, which sets progress and saves the rule's state. `log` has the
    values that the rule logged for the last batch, such as temperatures (B,). Raises InputError for a batch without
    pairs or `label`.
    """

    def __init__(self, model: nn.Module, rule: Rule) -> None:
        super().__init__()
        self.model = model
        self.rule = rule
        self.callback = RuleCallback(rule)
        self.log: dict[str, Tensor] = {}

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch, shape ()."""
        features = list(sentence_features)
        if len(features) != 2:
            count = f"{len(features)} columns to embed (all but `label`), and takes pairs, two columns"
            raise InputError(f"PairLoss: the batch has {count}; name the column with the index `label`")
        if labels is None:
            column = "a column named `label` with each pair's index (for MMTSLoss: the size of its concept)"
            raise InputError(f"PairLoss: the batch has no labels; give the data set {column}")
        self.rule.train(self.model.training)  # the trainer sets the mode of its model only
        x, y = (self.model(feature)["sentence_embedding"] for feature in features)
        # Labels are samples (B,), or samples and media (B, 2).
        samples, media = labels.unbind(dim=1) if labels.ndim == 2 and labels.shape[1] == 2 else (labels, None)
        output = batch_loss(self.rule, x, y, progress=self.callback.progress, samples=samples, media=media)
        self.log = output.log
        return output.loss
