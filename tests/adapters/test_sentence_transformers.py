"""PairLoss in a real SentenceTransformerTrainer: the loss, the clock, the optimizer, checkpoints, wrong data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.made import CAPTIONS, COUNTS, PICTURES, WORDS, published, shifted
from torch import Tensor

from mmts.adapters.batch_loss import Rule
from mmts.adapters.sentence_transformers import PairLoss
from mmts.adapters.trainer_callback import RULE_FILE
from mmts.errors import InputError, RunError
from mmts.losses import info_nce
from mmts.objectives import InfoNCE, SogCLR
from mmts.policies import Learned

pytest.importorskip("datasets")

STEPS = 4


def text_model() -> Any:
    """A bag of eight words, 4-dimensional embeddings."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: 1 + i for i, word in enumerate(WORDS)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")


def pairs(label: list[Any] | None) -> Any:
    from datasets import Dataset

    columns: dict[str, list[Any]] = {"picture": PICTURES, "caption": CAPTIONS}
    return Dataset.from_dict(columns | ({} if label is None else {"label": label}))


class Watched(PairLoss):
    """Notes what goes in and comes out of every call."""

    def __init__(self, model: Any, rule: Rule) -> None:
        super().__init__(model, rule)
        self.seen: list[dict[str, Any]] = []

    def forward(self, sentence_features: Any, labels: Tensor | None) -> Tensor:
        features = list(sentence_features)
        loss = super().forward(features, labels)
        embeddings = [each["sentence_embedding"].detach().clone() for each in features]  # put there by the model
        self.seen.append({"embeddings": embeddings, "labels": labels, "loss": loss.item(), **self.log})
        return loss


def make_trainer(folder: Path, loss: PairLoss, data: Any, **settings: Any) -> Any:
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    settings = {"max_steps": STEPS, "learning_rate": 0.1, "save_strategy": "no", **settings}
    arguments = SentenceTransformerTrainingArguments(
        str(folder), per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True, **settings
    )
    return SentenceTransformerTrainer(
        loss.model, arguments, train_dataset=data, eval_dataset=data, loss=loss, callbacks=[loss.callback]
    )


@pytest.mark.parametrize(("rule", "label"), [(shifted, list(range(8))), (published, COUNTS.tolist())])
def test_the_loss_is_the_rules_at_the_trainers_progress(rule: Any, label: list[int], tmp_path: Path) -> None:
    loss = Watched(text_model(), rule())
    make_trainer(tmp_path, loss, pairs(label)).train()
    assert len(loss.seen) == STEPS
    for step, seen in enumerate(loss.seen):
        if rule is published:
            temperature = rule().values(step=step / STEPS, counts=seen["labels"])
        else:
            temperature = rule().temperature(step / STEPS, seen["labels"])
        torch.testing.assert_close(seen["temperature"], temperature)
        wanted = info_nce(*seen["embeddings"], temperature)
        assert seen["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert loss.seen[0]["loss"] > loss.seen[-1]["loss"]
    assert loss.callback.progress == 1
