from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import clip_of_bytes, tiny_clip, tiny_encoder

from mmts.errors import InputError, RecipeError
from mmts.models import VideoTower, build_vocabulary, is_frozen, load_image_tower, load_text_tower, load_video_tower
from mmts.models.base import Tower
from mmts.models.video_towers import FramesTower

TINY_VIT = {"patch": 8, "width": 16, "depth": 2, "heads": 2}
IMAGE = {"image": "small-vit", "image_options": TINY_VIT}


def frames_tower(**options: object) -> FramesTower:
    torch.manual_seed(0)
    tower = load_video_tower("frames", **{"size": 16, "frames": 3, **IMAGE, **options})  # type: ignore[arg-type]
    assert isinstance(tower, FramesTower)
    return tower


def space_time(**options: object) -> VideoTower:
    torch.manual_seed(0)
    made = load_video_tower(
        "space-time-vit",
        **{"size": 16, "frames": 3, **TINY_VIT, "output_width": 6, **options},  # type: ignore[arg-type]
    )
    for parameter in made.parameters():  # far from the start, where the temporal embedding is zero
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


def clips(tower: VideoTower, number: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(number, tower.frames, 3, tower.size, tower.size, generator=generator)


@pytest.mark.parametrize(
    "build", [frames_tower, lambda: frames_tower(pooling="transformer", heads=2, dropout=0.1), space_time]
)
def test_every_weight_trains(build: Callable[[], VideoTower]) -> None:
    tower = build().train()
    rows = tower(clips(tower))
    assert rows.shape == (2, tower.width)
    rows.square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("build", [frames_tower, space_time])
@pytest.mark.parametrize("shape", [(2, 2, 3, 16, 16), (2, 3, 3, 8, 16), (3, 3, 16, 16)])
def test_wrong_shape_is_an_error(build: Callable[[], VideoTower], shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes clips of shape \(B, 3, 3, 16, 16\), not"):
        build()(torch.rand(shape))


def test_mean_of_the_frames() -> None:
    tower = frames_tower().eval()
    torch.manual_seed(0)
    image = load_image_tower("small-vit", size=16, **TINY_VIT).eval()
    batch = clips(tower)
    expected = torch.stack([torch.stack([image(frame[None])[0] for frame in clip]).mean(0) for clip in batch])
    torch.testing.assert_close(tower(batch), expected)
    torch.testing.assert_close(tower(batch.flip(1)), expected)  # blind to their order


def test_transformer_and_space_time_see_the_order() -> None:
    for tower in (frames_tower(pooling="transformer", heads=2), space_time()):
        batch = clips(tower.eval())
        assert not torch.allclose(tower(batch), tower(batch.flip(1)), atol=1e-4)


def test_the_mean_can_be_frozen_and_the_transformer_trains_on_frozen_frames(tmp_path: Path) -> None:
    folder = str(tiny_clip(tmp_path))
    mean = load_video_tower("frames", frames=2, image=folder)
    assert not mean.from_scratch
    mean.freeze()
    assert is_frozen(mean)
    assert (mean.size, mean.resize, mean.width) == (32, "crop", 12)
    torch.testing.assert_close(mean.mean, torch.tensor([0.4, 0.5, 0.6]))

    tower = load_video_tower("frames", frames=2, image=folder, image_frozen=True, pooling="transformer", heads=2)
    assert isinstance(tower, FramesTower)
    assert tower.from_scratch
    assert not is_frozen(tower)
    for mode in (True, False, True):
        tower.train(mode)
        assert not any(module.training for module in tower.image.modules())
        assert tower.blocks.training is mode  # type: ignore[union-attr]
    tower(clips(tower)).square().sum().backward()
    assert all(parameter.grad is None for parameter in tower.image.parameters())
    assert all(parameter.grad is not None for parameter in tower.parameters() if parameter.requires_grad)


def test_freezing_folds_the_image_towers_batch_norms() -> None:
    tower = load_video_tower("frames", size=32, frames=2).eval()
    batch = clips(tower)
    with torch.no_grad():
        before = tower(batch)
    tower.freeze()
    torch.testing.assert_close(tower(batch), before, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())


def test_inflated_clip_with_one_frame_is_clip(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = clip_of_bytes(tmp_path / "clip")
    tower = load_video_tower("space-time-vit", frames=1, weights=str(folder)).eval()
    assert (tower.size, tower.width, tower.resize, tower.from_scratch) == (16, 12, "crop", False)
    batch = clips(tower, 3)
    pixels = (batch[:, 0] - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder).eval().get_image_features(pixels).pooler_output
        torch.testing.assert_close(tower(batch), expected, rtol=0, atol=1e-5)
        exact = load_video_tower("space-time-vit", frames=1, weights=str(folder), activation="gelu").eval()
        assert not torch.allclose(exact(batch), expected, atol=1e-4)


def test_inflated_clip_starts_blind_to_the_order(tmp_path: Path) -> None:
    tower = load_video_tower("space-time-vit", weights=str(clip_of_bytes(tmp_path / "clip"))).eval()
    assert tower.frames == 16
    with torch.no_grad():
        batch = clips(tower)
        torch.testing.assert_close(tower(batch), tower(batch.flip(1)), rtol=0, atol=1e-5)


def test_patches_are_a_flattened_convolution() -> None:
    tower = space_time()
    frame = torch.rand(1, 3, 16, 16)
    weight = tower.patches.weight.unflatten(1, (3, 8, 8))  # type: ignore[union-attr,operator]
    expected = torch.nn.functional.conv2d(frame, weight, stride=8).flatten(2).transpose(1, 2)
    cut = [frame[0, :, row : row + 8, column : column + 8].flatten() for row in (0, 8) for column in (0, 8)]
    torch.testing.assert_close(tower.patches(torch.stack(cut))[None], expected)  # type: ignore[union-attr,operator]


def small_text() -> Tower:
    return load_text_tower("small-transformer", vocabulary=build_vocabulary(["a red"] * 2), width=8, heads=2, depth=2)


def hugging_face_text(folder: Path) -> Tower:
    return load_text_tower(str(tiny_encoder(folder, "bert")))


CHECKPOINTED: dict[str, Callable[[Path], Tower]] = {
    "small-vit": lambda _: load_image_tower("small-vit", size=16, dropout=0.2, **TINY_VIT),
    "small-transformer": lambda _: small_text(),
    "clip": lambda folder: load_image_tower(str(tiny_clip(folder))),
    "clip text": lambda folder: load_text_tower(str(tiny_clip(folder))),
    "bert": hugging_face_text,
    "frames": lambda _: frames_tower(pooling="transformer", heads=2, dropout=0.2),
    "space-time-vit": lambda _: space_time(),
}


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointed_gradients_are_the_same(name: str, tmp_path: Path) -> None:
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        tower = CHECKPOINTED[name](tmp_path).train()
        if checkpointed:
            tower.enable_gradient_checkpointing()
        torch.manual_seed(1)  # dropout draws the same units
        if isinstance(tower, VideoTower):
            rows = tower(clips(tower))
        elif hasattr(tower, "tokenize"):
            rows = tower(tower.tokenize(["a red shoe", "red"]))  # type: ignore[operator]
        else:
            rows = tower(torch.rand(2, 3, tower.size, tower.size))  # type: ignore[arg-type]
        again: list[object] = []  # norms computed in the backward pass
        for module in tower.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(lambda *_, again=again: again.append(1))
        rows.square().sum().backward()
        assert bool(again) is checkpointed
        grads.append({key: value.grad for key, value in tower.named_parameters()})
    for key, value in grads[0].items():
        assert value is not None, key
        torch.testing.assert_close(value, grads[1][key], rtol=1e-4, atol=1e-6)


def test_nothing_is_checkpointed_where_no_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmts.models.base.checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    tower = space_time()
    tower.enable_gradient_checkpointing()
    with torch.no_grad():
        assert tower(clips(tower)).shape == (2, 6)


def test_towers_without_blocks_cannot_checkpoint() -> None:
    tower = load_image_tower("small-resnet", size=16, channels=2, depth=1)
    with pytest.raises(RecipeError, match="tower 'small-resnet' cannot checkpoint its gradients"):
        tower.enable_gradient_checkpointing()
    video = frames_tower(image="small-resnet", image_options={"channels": 2, "depth": 1})
    with pytest.raises(RecipeError, match="tower 'small-resnet' cannot checkpoint"):
        video.enable_gradient_checkpointing()


def test_fingerprint_follows_frames_and_options() -> None:
    towers = [
        frames_tower(),
        frames_tower(frames=4),
        frames_tower(sampling="random"),
        frames_tower(sampling="stride"),
        frames_tower(sampling="stride", stride=2),
        frames_tower(pooling="transformer", heads=2),
        frames_tower(image_options={**TINY_VIT, "resize": "pad"}),
        space_time(),
        space_time(activation="quick_gelu"),
        space_time(heads=4),
    ]
    prints = [tower.fingerprint for tower in towers]
    assert len(set(prints)) == len(towers)
    assert frames_tower().fingerprint == prints[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("frame", {}, "unknown video tower 'frame'; did you mean 'frames'"),
        ("frames", {"pool": "mean"}, "no option 'pool'; did you mean 'pooling'"),
        ("frames", {**IMAGE, "pooling": "max"}, "pooling is 'max': input should be 'mean' or 'transformer'"),
        ("frames", {**IMAGE, "frames": 0}, "frames is 0: input should be greater than or equal to 1"),
        ("frames", {**IMAGE, "sampling": "all"}, "sampling is 'all': input should be 'uniform', 'random' or 'stride'"),
        ("frames", {**IMAGE, "stride": 0}, "stride is 0: input should be greater than or equal to 1"),
        ("frames", {**IMAGE, "image_frozen": True}, "'small-vit' starts from random weights, so it has to train"),
        ("frames", {"image": "small-vti"}, "unknown image tower 'small-vti'; did you mean 'small-vit'"),
        ("frames", {"image": 3}, "image is 3: input should be a valid string"),
        ("frames", {"image_options": {"size": 3}}, "the tower's own size, not one of image_options"),
        ("frames", {**IMAGE, "pooling": "transformer", "heads": 3}, "width 16 is not a multiple of heads 3"),
        ("space-time-vit", {"size": 20}, "size 20 is not a multiple of patch 16"),
        ("space-time-vit", {"depth": 0}, "depth is 0: input should be greater than or equal to 1"),
        ("space-time-vit", {"width": 16, "heads": 5}, "width 16 is not a multiple of heads 5"),
        ("space-time-vit", {"activation": "relu"}, "activation is 'relu': input should be 'gelu' or 'quick_gelu'"),
        ("space-time-vit", {"weights": "/nowhere/clip"}, "there is no such folder"),
        ("space-time-vit", {"weights": "gone.pt"}, r"there is no file 'gone.pt'"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as why:
        load_video_tower(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(why.value)


def test_weights_decide_about_sizes(tmp_path: Path) -> None:
    folder = str(clip_of_bytes(tmp_path / "clip"))
    with pytest.raises(RecipeError, match=r"weights '.*' has size 16, not 32; leave the option out"):
        load_video_tower("space-time-vit", weights=folder, size=32)
    with pytest.raises(RecipeError, match="those of a siglip model; only CLIP's fit here"):
        load_video_tower("space-time-vit", weights=str(tiny_clip(tmp_path / "siglip", "siglip")))
