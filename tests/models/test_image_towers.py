from pathlib import Path

import pytest
import torch
from tiny_models import save_preprocessor, tiny_backbone, tiny_clip, tiny_encoder

from mmts.errors import InputError, RecipeError
from mmts.models import ImageTower, is_frozen, load_image_tower

SMALL = [
    ("small-resnet", {"size": 32, "channels": 4, "depth": 1}, 32),
    ("small-resnet", {"size": 50, "channels": 2, "depth": 2}, 16),
    ("small-vit", {"size": 32, "patch": 8, "width": 16, "depth": 2, "heads": 2}, 16),
]


def assert_trains(tower: ImageTower) -> None:
    """Forward and backward: every weight gets a finite gradient."""
    tower.train()
    rows = tower(torch.rand(3, 3, tower.size, tower.size))
    assert rows.shape == (3, tower.width)
    rows.square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("name", "options", "width"), SMALL)
def test_small_towers_train(name: str, options: dict[str, int], width: int) -> None:
    tower = load_image_tower(name, **options)
    assert tower.width == width
    assert_trains(tower)


@pytest.mark.parametrize(("name", "low", "high"), [("small-resnet", 2.0e6, 3.0e6), ("small-vit", 2.0e6, 3.0e6)])
def test_small_towers_are_small(name: str, low: float, high: float) -> None:
    assert low < sum(parameter.numel() for parameter in load_image_tower(name).parameters()) < high


def test_vit_sees_where_a_patch_is() -> None:
    tower = load_image_tower("small-vit", size=16, patch=8, width=16, depth=1, heads=2).eval()
    image = torch.rand(1, 3, 16, 16)
    swapped = image.roll(8, dims=3)  # the two columns of patches change places
    assert not torch.allclose(tower(image), tower(swapped), atol=1e-4)
    assert len({tuple(row) for row in tower.positions.tolist()}) == 4  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_clip_and_siglip(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    tower = load_image_tower(str(tiny_clip(tmp_path, kind)))
    assert (tower.size, tower.resize) == (32, "crop")
    torch.testing.assert_close(tower.mean, torch.tensor([0.4, 0.5, 0.6]))
    assert not any("text" in name or "logit" in name for name, _ in tower.named_parameters())
    assert_trains(tower)

    images = torch.rand(2, 3, 32, 32)
    pixels = (images - tower.mean[:, None, None]) / tower.std[:, None, None]
    expected = AutoModel.from_pretrained(tmp_path).eval().get_image_features(pixels).pooler_output
    torch.testing.assert_close(tower.eval()(images), expected)


@pytest.mark.parametrize("kind", ["resnet", "vit", "dinov2"])
def test_backbones(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    tower = load_image_tower(str(tiny_backbone(tmp_path, kind)), size=32)
    assert tower.width == 16
    torch.testing.assert_close(tower.mean, torch.tensor([0.485, 0.456, 0.406]))
    images = torch.rand(2, 3, 32, 32)
    pixels = (images - tower.mean[:, None, None]) / tower.std[:, None, None]
    model = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(tower(images), model(pixels).pooler_output.flatten(1))

    mean = load_image_tower(str(tmp_path), size=32, pooling="mean")
    states = model(pixels).last_hidden_state
    torch.testing.assert_close(mean(images), states.mean((2, 3)) if kind == "resnet" else states.mean(1))


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_backbone_takes_another_size(tmp_path: Path, kind: str) -> None:
    tower = load_image_tower(str(tiny_backbone(tmp_path, kind)), size=48)
    assert tower(torch.rand(1, 3, 48, 48)).shape == (1, 16)


def test_a_pooler_that_the_files_lack_is_not_used(tmp_path: Path) -> None:
    """A checkpoint saved by a classifier has no pooler; transformers would fill it with random numbers."""
    from transformers import AutoModel, ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    tower = load_image_tower(str(tmp_path))
    images = torch.rand(2, 3, 32, 32)
    pixels = (images - tower.mean[:, None, None]) / tower.std[:, None, None]
    expected = AutoModel.from_pretrained(tmp_path).eval()(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(tower(images), expected)
    assert not any("pooler" in name for name, _ in tower.named_parameters())
    with pytest.raises(RecipeError, match="no pooler"):
        load_image_tower(str(tmp_path), pooling="pooler")


@pytest.mark.parametrize(
    ("config", "size", "resize"),
    [
        ({"size": {"height": 24, "width": 24}}, 24, "stretch"),
        ({"size": 24}, 24, "stretch"),
        ({"size": {"shortest_edge": 24}}, 24, "crop"),
        ({"size": {"shortest_edge": 48}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}, 24, "crop"),
        ({"size": 48, "crop_size": 24, "do_center_crop": False}, 48, "stretch"),
    ],
)
def test_preprocessor_gives_size_and_resize(tmp_path: Path, config: dict[str, object], size: int, resize: str) -> None:
    save_preprocessor(tiny_backbone(tmp_path, "resnet"), **config)
    tower = load_image_tower(str(tmp_path))
    assert (tower.size, tower.resize) == (size, resize)
    chosen = load_image_tower(str(tmp_path), size=40, resize="pad")
    assert (chosen.size, chosen.resize) == (40, "pad")


def test_preprocessor_without_normalisation(tmp_path: Path) -> None:
    folder = tiny_backbone(tmp_path, "resnet")
    save_preprocessor(folder, size=24, do_normalize=False, rescale_factor=2 / 255, do_rescale=True)
    tower = load_image_tower(str(folder))
    torch.testing.assert_close((torch.ones(3) - tower.mean) / tower.std, torch.full((3,), 2.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"size": "wide"}', "'wide'"),
        ('{"image_mean": {"red": 0.5}}', "float"),
        ('{"image_std": [0, 0, 0]}', r"image_std is \[0, 0, 0\], and has to be positive"),
    ],
)
def test_a_broken_preprocessor(content: str, message: str, tmp_path: Path) -> None:
    folder = tiny_backbone(tmp_path, "resnet")
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(RecipeError, match=f"its preprocessing.*{message}"):
        load_image_tower(str(folder))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientnet-lite1", {}, "did you mean 'efficientnet-lite0'"),
        ("small-vit", {"dept": 3}, "no option 'dept'; did you mean 'depth'"),
        ("small-vit", {"size": 60}, "60 is not a multiple of patch 8"),
        ("small-vit", {"heads": 5}, "width 192 is not a multiple of heads 5"),
        ("small-resnet", {"depth": 0}, "depth is 0: input should be greater than or equal to 1"),
        ("small-resnet", {"resize": "zoom"}, "resize is 'zoom': input should be 'stretch', 'crop' or 'pad'"),
        ("/nowhere/model", {}, "there is no such folder .the built-in image towers are efficientnet-lite0"),
        (
            "nobody/no-such-model",
            {},
            "image tower 'nobody/no-such-model' is not a folder and not in the local cache.*built-in",
        ),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_image_tower(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_options_are_read_as_in_a_recipe() -> None:
    tower = load_image_tower("small-resnet", size="32", depth=1.0, channels="4")
    assert (tower.size, tower.width, tower.arguments["depth"]) == (32, 32, 1)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no config\.json"):
        load_image_tower(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot load the model from this folder"):
        load_image_tower(str(tmp_path))
    with pytest.raises(RecipeError, match="takes no images"):
        load_image_tower(str(tiny_encoder(tmp_path / "bert", "bert")))
    with pytest.raises(RecipeError, match="does not take images of 12 px"):
        load_image_tower(str(tiny_backbone(tmp_path / "vit", "vit", patch=16)), size=12)
    with pytest.raises(RecipeError, match="no option 'patch'"):
        load_image_tower(str(tmp_path / "vit"), patch=3)


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_backbone(tmp_path, "vit")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "layernorm" in name)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"its files lack 1 weight, such as"):
        load_image_tower(str(folder))


def test_wrong_shape_is_an_error() -> None:
    tower = load_image_tower("small-resnet", size=32, channels=2, depth=1)
    with pytest.raises(InputError, match=r"\(B, 3, 32, 32\), not \(2, 3, 16, 16\)"):
        tower(torch.rand(2, 3, 16, 16))


def test_fingerprint_follows_weights_and_settings() -> None:
    def tower(**options: object) -> ImageTower:
        torch.manual_seed(0)
        return load_image_tower("small-resnet", **{"size": 32, "channels": 2, "depth": 1, **options})  # type: ignore[arg-type]

    first = tower()
    assert first.fingerprint == tower().fingerprint
    assert first.fingerprint != tower(size=48).fingerprint
    assert first.fingerprint != tower(resize="pad").fingerprint
    with torch.no_grad():
        next(first.parameters()).add_(1e-3)
    assert first.fingerprint != tower().fingerprint


def test_efficientnet_lite0() -> None:
    """Packaged weights: deterministic, sensible, and the same after folding the batch norms."""
    tower = load_image_tower("efficientnet-lite0", size=64).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = tower(images)
    assert before.shape == (2, 1280)
    assert 0 <= before.min() < before.mean() < before.max() <= 6  # the mean over positions of a ReLU6
    tower.freeze()
    assert is_frozen(tower)
    torch.testing.assert_close(tower(images), before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(tower(images), tower(images), rtol=0, atol=0)
    fingerprint = tower.fingerprint
    tower.freeze()
    assert tower.fingerprint == fingerprint
    assert_trains(load_image_tower("efficientnet-lite0", size=32))
