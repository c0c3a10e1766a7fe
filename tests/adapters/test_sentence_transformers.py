"""PairLoss in a real SentenceTransformerTrainer: the loss, the clock, the optimizer, checkpoints, wrong data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.made import CAPTIONS, COUNTS, PICTURES, WORDS, published, shifted
from torch import Tensor

from mmts.adapters.batch_loss import Rule
from mmts.adapters.huggingface import RULE_FILE
from mmts.adapters.sentence_transformers import PairLoss
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

    plain = {"max_steps": STEPS, "learning_rate": 0.1, "save_strategy": "no", "use_cpu": True}
    plain |= {"per_device_train_batch_size": 4, "report_to": [], "disable_tqdm": True}
    arguments = SentenceTransformerTrainingArguments(str(folder), **(plain | settings))
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


@pytest.mark.parametrize("rule", [lambda: InfoNCE(Learned()), lambda: SogCLR(8, 8, 0.1)], ids=["learned", "sogclr"])
def test_what_a_rule_learns_and_remembers_survives_a_checkpoint(rule: Any, tmp_path: Path) -> None:
    unbroken = PairLoss(text_model(), rule())
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": STEPS // 2}
    make_trainer(tmp_path, unbroken, pairs(list(range(8))), **settings).train()
    fresh = rule().state_dict()
    assert any(not torch.equal(each, fresh[name]) for name, each in unbroken.rule.state_dict().items())

    resumed = PairLoss(text_model(), rule())
    trainer = make_trainer(tmp_path, resumed, pairs(list(range(8))))
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    for whole in ("rule", "model"):
        for name, each in getattr(unbroken, whole).state_dict().items():
            torch.testing.assert_close(getattr(resumed, whole).state_dict()[name], each, msg=name)

    (tmp_path / f"checkpoint-{STEPS // 2}" / RULE_FILE).unlink()
    with pytest.raises(RunError, match=RULE_FILE):
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))


def test_a_checkpoint_of_another_rule_is_refused(tmp_path: Path) -> None:
    data = pairs(list(range(8)))
    make_trainer(tmp_path, PairLoss(text_model(), shifted()), data, save_strategy="steps", save_steps=2).train()
    trainer = make_trainer(tmp_path, PairLoss(text_model(), SogCLR(8, 8, 0.1)), data)
    with pytest.raises(RunError, match=f"{RULE_FILE} is not of this rule"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_evaluation_leaves_what_a_rule_remembers_alone(tmp_path: Path) -> None:
    loss = PairLoss(text_model(), SogCLR(8, 8, 0.1))
    trainer = make_trainer(tmp_path, loss, pairs(list(range(8))))
    trainer.train()
    before = {name: each.clone() for name, each in loss.rule.state_dict().items()}
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))
    for name, each in loss.rule.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_pairs_of_one_medium_are_right_for_each_other(tmp_path: Path) -> None:
    loss = PairLoss(text_model(), published())
    make_trainer(tmp_path, loss, pairs([[count, 0] for count in COUNTS.tolist()])).train()
    loss.callback.progress = 0.0
    features = [loss.model.preprocess(["red shoe", "blue hat"]) for _ in range(2)]
    assert loss(features, torch.tensor([[1, 5], [2, 5]])).item() == 0  # nothing is wrong
    assert loss(features, torch.tensor([[1, 5], [2, 6]])).item() > 0


def test_images_and_texts_of_a_clip_model(tmp_path: Path) -> None:
    from adapters.tiny_clip import picture, save_tiny_clip
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(save_tiny_clip(tmp_path / "clip")), device="cpu")
    loss = Watched(model, shifted())
    data = Dataset.from_dict({"image": [picture(i) for i in range(8)], "caption": CAPTIONS, "label": list(range(8))})
    make_trainer(tmp_path, loss, data, learning_rate=1e-3).train()
    for step, seen in enumerate(loss.seen):
        wanted = info_nce(*seen["embeddings"], shifted().temperature(step / STEPS, seen["labels"]))
        assert seen["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_wrong_data_and_a_missing_callback_are_said(tmp_path: Path) -> None:
    loss = PairLoss(text_model(), shifted())
    with pytest.raises(InputError, match="the batch has no labels"):
        make_trainer(tmp_path, loss, pairs(None)).train()
    data = pairs(None).add_column("number", [str(i) for i in range(8)])
    with pytest.raises(InputError, match=r"3 columns to embed.*name the column with the index `label`"):
        make_trainer(tmp_path, loss, data).train()
    with pytest.raises(InputError, match=r"index\[\d\] is 10\d; it must lie in 0..7"):
        make_trainer(tmp_path, loss, pairs(list(range(100, 108)))).train()

    untold = PairLoss(text_model(), shifted())
    trainer = make_trainer(tmp_path, untold, pairs(list(range(8))))
    trainer.remove_callback(untold.callback)
    with pytest.raises(InputError, match="progress is unknown"):
        trainer.train()
