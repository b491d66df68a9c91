"""DINOv2 with random weights of the published shapes: its function, its names, and files that are refused."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from gan_lab.errors import UserError
from gan_lab.metrics import dinov2, extractors
from gan_lab.metrics.extractors import Extractor

pytest.importorskip("timm")

WIDTH, DEPTH, HEADS = 384, 12, 6  # of ViT-S (Oquab et al. 2023, appendix)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones in the names and shapes of the published file of size s."""
    block = {
        **{f"{name}.{kind}": (WIDTH,) for name in ("norm1", "norm2") for kind in ("weight", "bias")},
        **{"attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,)},
        **{"attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,)},
        **{"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)},
        **{"mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,)},
        **{"mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,)},
    }
    shapes = {
        **{"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + 37**2, WIDTH), "mask_token": (1, WIDTH)},
        **{"patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,)},
        **{f"blocks.{n}.{name}": shape for n in range(DEPTH) for name, shape in block.items()},
        **{"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)},
    }
    rng = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=rng) / (shape[-1] ** 0.5 if len(shape) > 1 else 1)
        for name, shape in shapes.items()
    }
    path = tmp_path_factory.mktemp("dinov2") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def judge(weights: Path) -> Extractor:
    return extractors.dinov2("nowhere", "s", str(weights))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    rng = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 256, (2, 3, 8, 8), generator=rng).float()
    return F.interpolate(coarse, (32, 32), mode="bilinear").to(torch.uint8)


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The class token of a vision transformer (Dosovitskiy et al. 2021) with layer scales, in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, tokens: Tensor) -> Tensor:
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        scaled = centred / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    patches = F.unfold(x.double(), 14, stride=14).transpose(1, 2)
    kernel = state["patch_embed.proj.weight"].flatten(1)
    tokens = patches @ kernel.T + state["patch_embed.proj.bias"]
    tokens = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens], 1)
    tokens = tokens + dinov2.positions(state["pos_embed"])
    for n in range(DEPTH):
        qkv = linear(f"blocks.{n}.attn.qkv", norm(f"blocks.{n}.norm1", tokens))
        q, k, v = qkv.unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        mixed = linear(f"blocks.{n}.attn.proj", attention.transpose(1, 2).flatten(2))
        tokens = tokens + state[f"blocks.{n}.ls1.gamma"] * mixed
        hidden = linear(f"blocks.{n}.mlp.fc1", norm(f"blocks.{n}.norm2", tokens))
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        tokens = tokens + state[f"blocks.{n}.ls2.gamma"] * linear(f"blocks.{n}.mlp.fc2", hidden)
    return norm("norm", tokens)[:, 0]


def test_features_are_the_class_token_of_torch_fidelitys_images(
    judge: Extractor, weights: Path, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch-fidelity's extractor resizes and scales, a transformer written out here makes the features."""
    state = torch.load(weights, weights_only=True)

    class ByHand(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return by_hand(state, x)

    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: ByHand())
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    (expected,) = theirs(pixels)
    features, _ = judge(pixels)
    assert features.shape == (2, WIDTH)
    differ = (features[0] - features[1]).norm()
    assert differ > 0.01 * features[0].norm()
    assert (features - expected).norm() < 0.01 * differ


def test_positions_are_resized_as_dinov2_does() -> None:
    """A plane is read at the places that the scale of 16.1/37 gives; 16 × 16 stay as they are."""
    y, x = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing="ij")
    token = torch.tensor([[[5.0, 6.0]]])
    embedding = torch.cat([token, torch.stack([y, x], -1).reshape(1, -1, 2)], 1)
    found = dinov2.positions(embedding)
    assert found.shape == (1, 257, 2)
    assert torch.equal(found[:, :1], token)
    place = (torch.arange(16.0) + 0.5) * 37 / 16.1 - 0.5
    grid = found[0, 1:].reshape(16, 16, 2)
    # PyTorch's cubic bends a plane by up to 0.05; with a scale of 16/37 the last place would be 0.2 off.
    torch.testing.assert_close(grid[1:-1, 3, 0], place[1:-1], atol=0.06, rtol=0)
    torch.testing.assert_close(grid[3, 1:-1, 1], place[1:-1], atol=0.06, rtol=0)
    assert torch.equal(dinov2.positions(found), found)


def test_names_say_which_weights_judged(judge: Extractor, weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert judge.suffix == f"_dinov2_{digest[:8]}"
    assert judge.distance == "fd"
    assert judge.identity == {"name": "dinov2-vit-s-14", "weights": digest}


def test_weights_are_downloaded_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2, "published", lambda size: weights.as_uri())
    first = extractors.dinov2(str(tmp_path / "new"), "s")
    assert (tmp_path / "new" / weights.name).read_bytes() == weights.read_bytes()
    monkeypatch.setattr(dinov2, "published", lambda size: f"file:///nowhere/{weights.name}")
    assert extractors.dinov2(str(tmp_path / "new"), "s").suffix == first.suffix


def test_what_cannot_be_had_or_is_another_file_is_refused(weights: Path, tmp_path: Path) -> None:
    other, evil = tmp_path / "other.pth", tmp_path / "evil.pth"
    torch.save({"pos_embed": torch.zeros(1, 5, 3)}, other)
    torch.save({"pos_embed": Path("/")}, evil)
    for path, size, message in (
        (other, "s", "does not hold the weights of DINOv2 in size s"),
        (weights, "b", "does not hold the weights of DINOv2 in size b"),
        (evil, "s", "more than tensors"),
        (tmp_path / "none.pth", "s", "cannot be read"),
        (weights, "xl", "size=xl is none of s, b, l"),
    ):
        with pytest.raises(UserError, match=message):
            extractors.dinov2(str(tmp_path), size, str(path))


def test_without_a_network_the_error_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dinov2, "published", lambda size: "file:///nowhere/dinov2.pth")
    with pytest.raises(UserError) as refusal:
        extractors.dinov2(str(tmp_path))
    assert str(tmp_path / "dinov2.pth") in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
