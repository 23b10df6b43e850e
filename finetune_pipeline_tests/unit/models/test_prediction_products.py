"""Products by oneDNN are those of nn.Linear, and nothing but prediction in float32 takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from finetune_pipeline.models.loading import OneDnnLinear, load_for_prediction, onednn_is_there, predict_by_onednn
from finetune_pipeline_tests.tiny_model import make_tiny_model

ONEDNN = "mkldnn::_linear_pointwise"
pytestmark = pytest.mark.skipif(not onednn_is_there(), reason="this build of PyTorch has no oneDNN")


def _taken(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """(what the layer gives, whether oneDNN made it)."""
    with torch.profiler.profile() as seen:
        out = layer(x)
    return out, any(event.key == ONEDNN for event in seen.key_averages())


def _layers(bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(96, 80, bias=bias)
    fast = nn.Linear(96, 80, bias=bias)
    fast.load_state_dict(plain.state_dict())
    predict_by_onednn(fast)
    assert type(fast) is OneDnnLinear and fast.state_dict().keys() == plain.state_dict().keys()
    return plain, fast


@pytest.mark.parametrize(("bias", "shape"), [(True, (3, 7, 96)), (False, (4, 96))])
@torch.no_grad()
def test_the_same_product(bias: bool, shape: tuple[int, ...]) -> None:
    plain, fast = _layers(bias)
    x = torch.randn(shape)
    out, by_onednn = _taken(fast, x)
    assert torch.allclose(out, plain(x), atol=1e-5) and out.shape == (*shape[:-1], 80)
    assert by_onednn
    with torch.enable_grad():
        assert not _taken(fast, x)[1], "with gradients it is an ordinary layer"


@pytest.mark.parametrize(
    ("capability", "maker", "taken"),
    [
        ("AVX512", "AuthenticAMD", OneDnnLinear),
        ("AVX512", "GenuineIntel", nn.Linear),
        ("AVX2", "AuthenticAMD", nn.Linear),
    ],
)
def test_the_processor_decides_and_no_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, maker: str, taken: type
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("finetune_pipeline.models.loading.cpu_maker", lambda: maker)
    model = load_for_prediction(make_tiny_model(tmp_path / "base"), torch.device("cpu"))
    assert type(model.lm_head) is taken
