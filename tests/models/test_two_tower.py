from pathlib import Path

import pytest
import reference
import torch
from tiny_models import tiny_clip, tiny_encoder
from torch import nn

from mmts.errors import InputError, RecipeError, RunError
from mmts.models import (
    TextTower,
    TwoTower,
    build_head,
    build_two_tower,
    build_vocabulary,
    load_image_tower,
    load_text_tower,
    load_video_tower,
)

CAPTIONS = ["a red shoe", "a blue hat", "a red hat"]


def small_text() -> TextTower:
    return load_text_tower("small-transformer", vocabulary=build_vocabulary(CAPTIONS), width=8, depth=1, heads=2)


def small_model(**options: object) -> TwoTower:
    """Towers that train from scratch."""
    torch.manual_seed(0)
    image = load_image_tower("small-resnet", size=32, channels=2, depth=1)
    return build_two_tower(image, small_text(), **{"hidden": 12, "width": 6, **options})


def frozen_model(folder: Path, **options: object) -> TwoTower:
    """A frozen CLIP image side with a BERT that trains."""
    clip, bert = folder / "clip", folder / "bert"
    if not clip.exists():
        tiny_clip(clip)
        tiny_encoder(bert, "bert")
    torch.manual_seed(0)
    image = load_image_tower(str(clip))
    image.freeze()
    return build_two_tower(image, load_text_tower(str(bert)), width=6, **options)


def batch(model: TwoTower) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    assert model.text_tower is not None
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return images, model.text_tower.tokenize(CAPTIONS)


def test_unit_embeddings_and_gradients_everywhere() -> None:
    model = small_model()
    x, y = model(*batch(model))
    assert x.shape == y.shape == (3, 6)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(y.norm(dim=1), torch.ones(3))
    (x @ y.T).diagonal().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_frozen_tower_stays_in_evaluation_without_gradients(tmp_path: Path) -> None:
    model = frozen_model(tmp_path)
    assert model.media_tower is not None
    assert model.text_tower is not None
    for mode in (True, False, True):
        model.train(mode)
        assert not any(module.training for module in model.media_tower.modules())
        assert model.text_tower.training is model.media_head.training is mode
    x, y = model(*batch(model))
    (x * y).sum().backward()
    assert all(parameter.grad is None for parameter in model.media_tower.parameters())
    assert all(parameter.grad is not None for parameter in model.text_tower.parameters())
    assert all(parameter.grad is not None for parameter in model.media_head.parameters())


def test_trainable_state_round_trip(tmp_path: Path) -> None:
    model = frozen_model(tmp_path, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    state = model.trainable_state_dict()
    assert not any(name.startswith("media_tower") for name in state)
    torch.save(state, tmp_path / "state.pt")

    other = frozen_model(tmp_path, dropout=0.0)
    inputs = batch(model)
    assert not torch.equal(other.eval()(*inputs)[0], model.eval()(*inputs)[0])
    other.load_trainable_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, theirs in zip(model(*inputs), other(*inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_batch_norm_statistics_are_part_of_the_state() -> None:
    assert any("running_mean" in name for name in small_model().trainable_state_dict())


def test_dropping_frozen_towers(tmp_path: Path) -> None:
    model = frozen_model(tmp_path).eval()
    images, tokens = batch(model)
    assert model.media_tower is not None
    rows = model.media_tower(images)
    before = model(images, tokens)
    state = model.trainable_state_dict()
    model.drop_frozen()
    assert model.media_tower is None
    assert model.text_tower is not None
    assert list(model.trainable_state_dict()) == list(state)
    for ours, theirs in zip(model(rows, tokens), before, strict=True):
        assert torch.equal(ours, theirs)


def test_zero_features_give_zero_embeddings() -> None:
    model = TwoTower(None, None, nn.Linear(4, 3, bias=False), nn.Identity())
    x, y = model(torch.zeros(2, 4, requires_grad=True), torch.zeros(2, 3))
    assert x.tolist() == y.tolist() == [[0.0] * 3] * 2
    x.sum().backward()
    assert model.media_head.weight.grad.isfinite().all()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("text_head.0.bias"), "lacks 1 weight, such as 'text_head.0.bias'"),
        (lambda state: state.update(extra=torch.zeros(1)), "also has 1 weight, such as 'extra'"),
        (
            lambda state: state.update({"text_head.1.bias": torch.zeros(5)}),
            r"'text_head.1.bias' of shape \(5,\), not \(12,\)",
        ),
    ],
)
def test_state_of_another_model_is_an_error(change: object, message: str) -> None:
    model = small_model()
    state = model.trainable_state_dict()
    change(state)  # type: ignore[operator]
    with pytest.raises(RunError, match=message):
        model.load_trainable_state_dict(state)


def test_same_seed_same_weights() -> None:
    first, second = small_model().state_dict(), small_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("two-layer", 2), ("none", 0)])
def test_heads(kind: str, layers: int) -> None:
    head = build_head(kind, 4, 4, hidden=7, dropout=0.5)
    assert sum(isinstance(module, nn.Linear) for module in head.modules()) == layers
    assert head(torch.rand(2, 4)).shape == (2, 4)


def test_a_residual_head_starts_as_the_identity_and_is_its_twin_later() -> None:
    torch.manual_seed(0)
    head, features = build_head("residual", 4, 4, hidden=7).eval(), torch.randn(3, 4)
    assert torch.equal(head(features), features)
    torch.nn.init.normal_(head[-1].weight)
    change = nn.Sequential(*head)(features)
    expected = [reference.residual(*rows) for rows in zip(features.tolist(), change.tolist(), strict=True)]
    assert torch.allclose(head(features), torch.tensor(expected), atol=1e-6)
    assert torch.allclose(head(100 * features), 100 * head(features), rtol=1e-3)


def test_wrong_heads() -> None:
    with pytest.raises(RecipeError, match="head 'residual' keeps the tower's width 4, but the model's width is 3"):
        build_head("residual", 4, 3)
    with pytest.raises(RecipeError, match="head 'none' keeps the tower's width 4, but the model's width is 3"):
        build_head("none", 4, 3)
    with pytest.raises(InputError, match="kind is 'two-layers'; it must be one of linear, two-layer, residual, none"):
        build_head("two-layers", 4, 3)


def video_model(**options: object) -> TwoTower:
    torch.manual_seed(0)
    clips = {"frames": 3, "sampling": "random"}
    return build_two_tower(load_video_tower("frames", **clips, **options), small_text(), width=6, dropout=0.0)


def test_videos_train() -> None:
    model = video_model(size=32, image="small-resnet", image_options={"channels": 2, "depth": 1})
    assert model.media_tower is not None
    assert (model.media_tower.size, model.media_tower.sampling.kind) == (32, "random")  # type: ignore[union-attr]
    x, y = model(torch.rand(3, 3, 3, 32, 32), batch(model)[1])
    assert x.shape == y.shape == (3, 6)
    (x @ y.T).diagonal().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_trainable_state_leaves_out_a_frozen_image_tower_of_frames(tmp_path: Path) -> None:
    options = {"image": str(tiny_clip(tmp_path)), "image_frozen": True, "pooling": "transformer", "heads": 2}
    model = video_model(**options).eval()
    state = model.trainable_state_dict()
    assert "media_tower.positions" in state
    assert not any(name.startswith("media_tower.image.") for name in state)
    clips, tokens = torch.rand(2, 3, 3, 32, 32), batch(model)[1]
    before = model(clips, tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert not torch.allclose(model(clips, tokens)[0], before[0])
    model.load_trainable_state_dict(video_model(**options).trainable_state_dict())
    for ours, theirs in zip(model(clips, tokens), before, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_feature_rows_need_no_tower() -> None:
    model = build_two_tower(10, small_text(), width=6)
    assert model.media_tower is None
    x, y = model(torch.rand(3, 10), batch(model)[1])
    assert x.shape == y.shape == (3, 6)
