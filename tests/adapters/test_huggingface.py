"""ContrastiveTrainer with a real CLIPModel: the loss, kept columns, accumulation, what a rule learns, evaluation."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.made import COUNTS, WORDS, published, shifted
from adapters.tiny_clip import tiny_clip
from torch import Tensor
from transformers import TrainingArguments

from mmts.adapters.huggingface import RULE_FILE, ContrastiveTrainer, keep_columns
from mmts.errors import InputError
from mmts.losses import info_nce
from mmts.objectives import FastCLIP, InfoNCE, SogCLR
from mmts.policies import Learned

STEPS = 4


def rows(**columns: Tensor) -> list[dict[str, Any]]:
    """Eight pairs of a random picture and two words, with more columns of whole numbers."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 3, 16, 16, generator=generator)
    tokens = [[0, 2 + i % 4, 6 + i // 2, 1] for i in range(8)]
    assert len(WORDS) == 8
    plain = [{"pixel_values": pixels[i], "input_ids": tokens[i], "attention_mask": [1] * 4} for i in range(8)]
    return [{**row, **{name: int(each[i]) for name, each in columns.items()}} for i, row in enumerate(plain)]


class Watched(ContrastiveTrainer):
    """Notes what the loss is worked out from, by its progress."""

    seen: list[dict[str, Any]]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.seen = getattr(self, "seen", [])
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        embeddings = [outputs[name].detach() for name in ("image_embeds", "text_embeds")]
        progress = self.rule_callback.progress
        self.seen.append(
            {"progress": progress, "inputs": inputs, "embeddings": embeddings, "loss": loss.item(), **self.rule_log}
        )
        return (loss, outputs) if return_outputs else loss


def make_trainer(folder: Path, rule: Any, data: Any, model: Any = None, more: Any = None, **settings: Any) -> Watched:
    plain = {"max_steps": STEPS, "learning_rate": 0.01, "save_strategy": "no", "logging_steps": 1}
    plain |= {"per_device_train_batch_size": 4, "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(str(folder), **(plain | settings))
    return Watched(model or tiny_clip(), arguments, train_dataset=data, eval_dataset=data, rule=rule, **(more or {}))


def hugging_face_dataset(data: list[dict[str, Any]]) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list([{**row, "pixel_values": row["pixel_values"].tolist()} for row in data])


@pytest.mark.parametrize("kind", [list, hugging_face_dataset], ids=["rows", "datasets"])
@pytest.mark.parametrize(("rule", "column"), [(shifted, {"index": torch.arange(8)}), (published, {"count": COUNTS})])
def test_the_loss_is_the_rules_at_the_trainers_progress(rule: Any, column: Any, kind: Any, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rule(), kind(rows(**column)))
    assert trainer.args.remove_unused_columns  # its default, and the trap
    trainer.train()
    assert [each["progress"] for each in trainer.seen] == [0, 0.25, 0.5, 0.75]
    for seen in trainer.seen:
        samples = seen["inputs"][next(iter(column))]
        temperature = (
            rule().values(step=seen["progress"], counts=samples)
            if rule is published
            else rule().temperature(seen["progress"], samples)
        )
        torch.testing.assert_close(seen["temperature"], temperature)
        assert seen["loss"] == pytest.approx(info_nce(*seen["embeddings"], temperature).item(), rel=1e-5)
    logged = [line["temperature"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx([each["temperature"].mean().item() for each in trainer.seen])


def test_accumulated_gradients_are_the_mean_of_the_batches(tmp_path: Path) -> None:
    model = tiny_clip()
    trainer = make_trainer(
        tmp_path, shifted(), rows(index=torch.arange(8)), model, gradient_accumulation_steps=2, max_steps=1,
        optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0,
    )  # fmt: skip
    trainer.train()
    twin = tiny_clip()
    assert [each["progress"] for each in trainer.seen] == [0, 0]
    for seen in trainer.seen:
        outputs = twin(**{name: seen["inputs"][name] for name in ("pixel_values", "input_ids", "attention_mask")})
        temperature = shifted().temperature(0.0, seen["inputs"]["index"])
        (info_nce(outputs.image_embeds, outputs.text_embeds, temperature) / 2).backward()
    for (name, trained), start in zip(model.named_parameters(), twin.parameters(), strict=True):
        if start.grad is not None and name != "logit_scale":
            torch.testing.assert_close(trained, start - start.grad, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("rule", [lambda: InfoNCE(Learned()), lambda: SogCLR(8, 8, 0.1)], ids=["learned", "sogclr"])
def test_what_a_rule_learns_and_remembers_survives_a_checkpoint(rule: Any, tmp_path: Path) -> None:
    data = rows(index=torch.arange(8))
    unbroken = make_trainer(tmp_path, rule(), data, save_strategy="steps", save_steps=STEPS // 2)
    unbroken.train()
    fresh = rule().state_dict()
    assert any(not torch.equal(each, fresh[name]) for name, each in unbroken.rule.state_dict().items())
    assert (tmp_path / f"checkpoint-{STEPS}" / RULE_FILE).exists()

    resumed = make_trainer(tmp_path, rule(), data)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    for whole in ("rule", "model"):
        for name, each in getattr(unbroken, whole).state_dict().items():
            torch.testing.assert_close(getattr(resumed, whole).state_dict()[name], each, msg=name)


def test_the_optimizer_gets_what_the_rule_learns_once_and_at_its_own_rate(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, FastCLIP(8, 8, learning_rate=2e-4), rows(index=torch.arange(8)), weight_decay=0.1)
    trainer.train()
    own = {id(each) for each in trainer.rule.parameters()}
    groups = [group for group in trainer.optimizer.param_groups if own & {id(each) for each in group["params"]}]
    assert [(group["initial_lr"], group["weight_decay"], len(group["params"])) for group in groups] == [(2e-4, 0.0, 1)]
    assert all(each.grad is None for each in trainer.rule.parameters())  # forgotten after the step


def test_evaluation_has_a_loss_and_leaves_what_a_rule_remembers_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, SogCLR(8, 8, 0.1), rows(index=torch.arange(8)))
    trainer.train()
    before = {name: each.clone() for name, each in trainer.rule.state_dict().items()}
    assert "eval_loss" in trainer.evaluate()
    for name, each in trainer.rule.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_pairs_of_one_medium_are_right_for_each_other(tmp_path: Path) -> None:
    data = rows(index=torch.arange(8), media_index=torch.zeros(8))
    trainer = make_trainer(tmp_path, shifted(), data, more={"shared_media": True})
    trainer.train()
    assert [each["loss"] for each in trainer.seen] == [0] * STEPS  # nothing is wrong


def test_a_row_without_its_column_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a row has no 'index', only 'pixel_values', 'input_ids', 'attention_mask'"):
        make_trainer(tmp_path, shifted(), rows()).train()
    with pytest.raises(InputError, match="a row has no 'count'"):
        make_trainer(tmp_path, published(), rows(index=torch.arange(8))).train()


def test_the_collator_gives_the_rest_of_a_row_to_the_one_it_wraps() -> None:
    collate = partial(keep_columns, lambda given: {"given": given}, ["index", "media_index"])
    batch = collate([{"caption": "a cat", "index": 3, "media_index": 1}])
    assert batch["given"] == [{"caption": "a cat"}]
    assert (batch["index"].tolist(), batch["media_index"].tolist()) == ([3], [1])
