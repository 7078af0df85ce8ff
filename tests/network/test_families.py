"""Every family that the docs name: the right number of blocks, and the model's own output at gates of one."""

import pytest
import torch

from families import ALL, WITHOUT_BLOCKS, Family
from helpers import randomise_norms
from resnet_paths.network import NoBlocksError, unroll

pytestmark = pytest.mark.slow

_CASES = [pytest.param(family, id=f"{family.library}-{family.name}") for family in ALL]


@pytest.mark.filterwarnings("ignore:.*could not be traced")
@pytest.mark.parametrize("family", _CASES)
def test_network_is_the_model(family: Family) -> None:
    if family.library != "torchvision":
        pytest.importorskip({"timm": "timm", "hf": "transformers"}[family.library])
    model = randomise_norms(family.make())
    net = unroll(model, family.example(2) if family.needs_example else None)
    assert len(net) == family.blocks

    x = family.example(1)
    with torch.no_grad():
        expected = model(x)
        expected = getattr(expected, "logits", expected)
        middle = len(net) // 2
        gates = torch.ones(2, len(net))
        gates[0, middle] = 0
        deleted, whole = net(x, gates)
        assert (whole - expected).abs().max() <= 1e-12
        state = net.prefix(x, middle)
        lesioned = net.run(net.join(state, net.shortcut(state)))
        assert (deleted - lesioned.value).abs().max() <= 1e-12
        assert net.branch(state).abs().max() > 0


@pytest.mark.parametrize("family", WITHOUT_BLOCKS, ids=lambda family: family.name)
def test_models_without_blocks_are_refused_with_reasons(family: Family) -> None:
    with pytest.raises(NoBlocksError, match="What to do"):
        unroll(family.make())
