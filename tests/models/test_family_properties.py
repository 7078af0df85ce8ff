"""For every member of the family: it unrolls exactly, its twin shares its weights, its checkpoint loads."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import randomise_norms
from resnet_paths.models import cifar_resnet, linear_decay, load_checkpoint, save_checkpoint
from resnet_paths.network import NoBlocksError, unroll

pytestmark = pytest.mark.slow


@st.composite
def members(draw) -> dict:
    block = draw(st.sampled_from(["basic", "bottleneck"]))
    widths = draw(st.sampled_from([(4,), (4, 4), (4, 8), (4, 4, 8), (2, 4, 4, 8)]))
    blocks = draw(st.integers(1, 2))
    options = {
        "depth": {"basic": 2, "bottleneck": 3}[block] * blocks * len(widths) + 2,
        "block": block,
        "widths": widths,
        "shortcut": draw(st.sampled_from("ABCD")),
        "preactivation": draw(st.booleans()),
        "stem": draw(st.sampled_from(["3x3", "7x7", "deep"])),
        "keep_last": draw(st.sampled_from([1.0, 0.7, 0.2])),
        "in_channels": draw(st.integers(1, 3)),
        "num_classes": draw(st.integers(2, 5)),
        "seed": draw(st.integers(0, 2**31)),
    }
    if block == "bottleneck":
        options["groups"] = draw(st.sampled_from([1, 2]))
        options["group_width"] = draw(st.sampled_from([None, 3]))
        if options["group_width"]:
            options["widths"] = tuple(4 * 2**stage for stage in range(len(widths)))
    return options


@given(options=members(), size=st.tuples(st.integers(1, 19), st.integers(1, 19)))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_member(tmp_path_factory, options: dict, size: tuple[int, int]) -> None:
    model = randomise_norms(cifar_resnet(**options), options["seed"]).eval().double()
    blocks = len(options["widths"]) * ((options["depth"] - 2) // len(options["widths"]))
    blocks //= 3 if options["block"] == "bottleneck" else 2
    x = torch.randn(2, options["in_channels"], *size, dtype=torch.float64)
    net = unroll(model)
    assert len(net) == blocks
    assert torch.allclose(net(x), model(x), rtol=0, atol=1e-12)

    usual = cifar_resnet(**{**options, "keep_last": 1.0}).eval().double()
    usual.load_state_dict(model.state_dict())
    gates = torch.tensor(linear_decay(blocks, options["keep_last"]), dtype=torch.float64)
    assert torch.allclose(unroll(usual)(x, gates), model(x), rtol=0, atol=1e-12)

    plain = cifar_resnet(**{**options, "keep_last": 1.0}, residual=False)
    fresh = cifar_resnet(**options).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in plain.state_dict().items())
    with pytest.raises(NoBlocksError):
        unroll(plain)
    path = save_checkpoint(model.float(), tmp_path_factory.mktemp("net") / "net.safetensors")
    assert torch.equal(load_checkpoint(path)(x.float()), model(x.float()))
