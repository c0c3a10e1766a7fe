"""RuleClipLoss has ClipLoss's call and values, and learns which samples a batch has from a webdataset pipeline."""

import inspect
import io
import multiprocessing
import random
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters.made import CAPTIONS, COUNTS, published, shifted
from adapters.tiny_clip import picture
from torch import Tensor

from mmts.adapters.batch_loss import Rule
from mmts.adapters.open_clip import RuleClipLoss, position_of, tell_samples
from mmts.errors import DataError, InputError
from mmts.losses import info_nce
from mmts.objectives import InfoNCE
from mmts.policies import Fixed, Learned

EPOCHS, SCALE = 2, torch.tensor(20.0)
KEYS = [f"shard/{100 + i}" for i in range(8)]


def features(number: int = 8) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, number, 4, generator=torch.Generator().manual_seed(number))
    return torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(y, dim=1)


def test_the_call_is_that_of_clip_loss() -> None:
    parameters = inspect.signature(RuleClipLoss.forward).parameters
    names = ["self", "image_features", "text_features", "logit_scale", "logit_bias", "output_dict"]
    assert list(parameters) == names
    assert (parameters["logit_bias"].default, parameters["output_dict"].default) == (None, False)


def test_with_a_fixed_temperature_it_is_cross_entropy_both_ways() -> None:
    loss = RuleClipLoss(InfoNCE(Fixed(1 / SCALE.item())))
    loss.progress, loss.samples = 0.5, torch.arange(8)
    x, y = features()
    right, logits = torch.arange(8), SCALE * x @ y.T
    wanted = (torch.nn.functional.cross_entropy(logits, right) + torch.nn.functional.cross_entropy(logits.T, right)) / 2
    torch.testing.assert_close(loss(x, y, SCALE), wanted)
    found = loss(x, y, logit_scale=SCALE, output_dict=True)
    assert list(found) == ["contrastive_loss"]
    torch.testing.assert_close(found["contrastive_loss"], wanted)


def test_the_models_own_scale_and_bias_get_a_gradient_of_nothing() -> None:
    loss = RuleClipLoss(shifted())
    loss.progress, loss.samples = 0.0, torch.arange(8)
    scale, bias = SCALE.clone().requires_grad_(), torch.tensor([-10.0], requires_grad=True)
    loss(*features(), scale, bias).backward()
    assert scale.grad is not None
    assert bias.grad is not None
    assert (scale.grad.item(), bias.grad.item()) == (0, 0)


# --- the pipeline ----------------------------------------------------------------------------------------------------


def write_shard(path: Path) -> None:
    """Eight samples; a picture's only byte is its number."""
    with tarfile.open(path, "w") as tar:
        for i, key in enumerate(KEYS):
            for suffix, content in (("jpg", bytes([i])), ("txt", CAPTIONS[i].encode())):
                add(tar, f"{key}.{suffix}", content)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def training_data(folder: Path, batch_size: int = 2) -> Any:
    """What get_data(...)["train"] holds: a WebLoader over a pipeline that ends in pairs without their key."""
    import webdataset

    write_shard(folder / "0.tar")
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(str(folder / "0.tar")),
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(bufsize=8, initial=8, rng=random.Random(0)),
        webdataset.rename(image="jpg", text="txt"),
        webdataset.map_dict(image=lambda image: torch.tensor(image[0]), text=lambda text: torch.tensor(len(text))),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(batch_size, partial=False),
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=0)
    loader.num_batches, loader.num_samples = 8 // batch_size, 8
    epoch = multiprocessing.Value("i", 0)
    return SimpleNamespace(dataloader=loader, shared_epoch=SimpleNamespace(get_value=lambda: epoch.value), value=epoch)


def train(data: Any, loss: RuleClipLoss, accum_freq: int = 1) -> list[tuple[Tensor, float, Tensor]]:
    """Go through all epochs as open_clip does; return the pictures' numbers, progress and losses of every step."""
    found = []
    for epoch in range(EPOCHS):
        data.value.value = epoch
        together: list[Tensor] = []
        for images, texts in data.dataloader:
            assert len(images) == len(texts) == 2
            together.append(images)
            if len(together) == accum_freq:
                numbers = torch.cat(together)
                assert loss.progress is not None
                found.append((numbers, loss.progress, loss(*features(len(numbers)), SCALE)))
                together = []
    return found


@pytest.mark.parametrize("accum_freq", [1, 2])
def test_samples_and_progress_are_those_of_the_batch(accum_freq: int, tmp_path: Path) -> None:
    loss, data = RuleClipLoss(shifted()), training_data(tmp_path)
    tell_samples(data, loss, position_of(KEYS), epochs=EPOCHS, accum_freq=accum_freq)
    assert (data.dataloader.num_batches, data.dataloader.num_samples) == (4, 8)
    steps = EPOCHS * 4 // accum_freq
    found = train(data, loss, accum_freq)
    assert [progress for _, progress, _ in found] == [step / steps for step in range(steps)]
    for numbers, progress, given in found:
        wanted = info_nce(*features(len(numbers)), shifted().temperature(progress, numbers))
        torch.testing.assert_close(given, wanted)
    assert sorted(torch.cat([numbers for numbers, _, _ in found[: steps // 2]]).tolist()) == list(range(8))


def test_the_published_rule_takes_the_sizes_of_concepts(tmp_path: Path) -> None:
    loss, data, position = RuleClipLoss(published()), training_data(tmp_path), position_of(KEYS)
    tell_samples(data, loss, lambda key: int(COUNTS[position(key)]), epochs=EPOCHS)
    for numbers, progress, given in train(data, loss):
        temperature = published().values(step=progress, counts=COUNTS[numbers])
        torch.testing.assert_close(given, info_nce(*features(2), temperature))


def test_a_learned_temperature_is_bounded_after_each_step(tmp_path: Path) -> None:
    rule: Rule = InfoNCE(Learned(start=0.07, low=0.05))
    data = training_data(tmp_path)
    tell_samples(data, RuleClipLoss(rule), position_of(KEYS), epochs=EPOCHS)
    batches = iter(data.dataloader)
    next(batches)
    with torch.no_grad():
        for each in rule.parameters():
            each.fill_(-9.0)  # as an optimizer might
    next(batches)
    assert rule.temperature(0.0, torch.arange(2)).item() == pytest.approx(0.05)


def test_what_cannot_be_right_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not know which samples"):
        RuleClipLoss(shifted())(*features(), SCALE)
    with pytest.raises(InputError, match="key 'a' is at 0 and at 2"):
        position_of(["a", "b", "a"])
    with pytest.raises(InputError, match="is not a webdataset pipeline"):
        tell_samples(SimpleNamespace(dataloader=[]), RuleClipLoss(shifted()), int, epochs=1)
    loss, data = RuleClipLoss(shifted()), training_data(tmp_path)
    tell_samples(data, loss, position_of(KEYS[:3]), epochs=EPOCHS)
    with pytest.raises(DataError, match=r"a sample 'shard/10.', which is not among the 3 known"):
        train(data, loss)


# --- open_clip itself, where it imports (it needs torchvision) -------------------------------------------------------


@pytest.fixture
def open_clip() -> Any:
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # torchvision beside a torch of another build is a RuntimeError
        pytest.skip(f"open_clip does not import: {error}")
    return open_clip


def test_call_and_values_are_those_of_open_clip(open_clip: Any) -> None:
    theirs = open_clip.ClipLoss()
    wanted = inspect.signature(theirs.forward).parameters
    ours = inspect.signature(RuleClipLoss(shifted()).forward).parameters
    assert [(name, each.default) for name, each in ours.items()] == [
        (name, each.default) for name, each in wanted.items()
    ]
    loss = RuleClipLoss(InfoNCE(Fixed(1 / SCALE.item())))
    loss.progress, loss.samples = 0.5, torch.arange(8)
    for output_dict in (False, True):
        torch.testing.assert_close(
            loss(*features(), SCALE, output_dict=output_dict), theirs(*features(), SCALE, output_dict=output_dict)
        )


@pytest.mark.parametrize("accum_freq", [1, 2])
def test_open_clips_own_loop_trains_under_a_rule(open_clip: Any, accum_freq: int, tmp_path: Path) -> None:
    from importlib.metadata import version

    from open_clip_train.data import get_data
    from open_clip_train.params import parse_args
    from open_clip_train.train import train_one_epoch
    from packaging.version import Version

    if Version(version("webdataset")) > Version("0.2.86"):
        pytest.skip("open_clip reads shards with webdataset 0.2.86 or older only")
    write_pictures(tmp_path / "0.tar")
    options = f"--train-data {tmp_path / '0.tar'} --train-num-samples 8 --dataset-type webdataset --batch-size 2"
    arguments = parse_args(
        f"{options} --workers 1 --epochs {EPOCHS} --accum-freq {accum_freq} --precision fp32".split()
    )
    arguments.device, arguments.distributed, arguments.distill = "cpu", False, False
    arguments.rank, arguments.world_size, arguments.skip_scheduler, arguments.wandb = 0, 1, True, False
    tower = {"layers": 1, "width": 8}
    model = open_clip.CLIP(
        4,
        {**tower, "image_size": 16, "patch_size": 8, "head_width": 4},
        {**tower, "context_length": 4, "vocab_size": 10, "heads": 2},
        output_dict=True,
    )
    seen: list[tuple[float, list[int], list[int]]] = []
    pictures: list[list[int]] = []
    model.visual.register_forward_pre_hook(lambda _, inputs: pictures.append([int(n) for n in inputs[0][:, 0, 0, 0]]))

    class Watched(RuleClipLoss):
        def forward(self, *given: Any, **more: Any) -> Any:
            assert self.samples is not None
            assert self.progress is not None
            # Accumulating, it embeds all batches of a step, and then each of them again before the loss.
            shown = [number for batch in pictures[-1 if accum_freq == 1 else -accum_freq - 1 :] for number in batch]
            seen.append((self.progress, self.samples.tolist(), shown))
            return super().forward(*given, **more)

    loss = Watched(shifted())
    number = lambda image: torch.full((3, 16, 16), float(image.getpixel((0, 0))[0] // 30))  # noqa: E731
    tokens = lambda text: torch.tensor([[2, 3, len(text) % 10, 9]])  # noqa: E731
    data = get_data(arguments, (number, number), tokenizer=tokens)
    tell_samples(data["train"], loss, position_of(KEYS), epochs=EPOCHS, accum_freq=accum_freq)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for epoch in range(EPOCHS):
        train_one_epoch(model, data, loss, epoch, optimizer, None, None, None, arguments)

    steps = EPOCHS * 4 // accum_freq
    assert [progress for progress, _, _ in seen[::accum_freq]] == [step / steps for step in range(steps)]
    for _, samples, shown in seen:
        assert samples == shown if accum_freq == 1 else sorted(samples) == sorted(set(shown))
    after = model.state_dict()
    assert not torch.equal(after["visual.proj"], before["visual.proj"])
    torch.testing.assert_close(after["logit_scale"], before["logit_scale"], rtol=0, atol=0.2)


def write_pictures(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for i, key in enumerate(KEYS):
            image = io.BytesIO()
            picture(i).save(image, format="PNG")
            add(tar, f"{key}.png", image.getvalue())
            add(tar, f"{key}.txt", CAPTIONS[i].encode())
