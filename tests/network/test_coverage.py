"""A sample of docs/coverage.md: each kind of structure once, tried exactly as for the page."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "analysis" / "coverage"))

from additions import sites
from catalogue import ALL, Entry
from page import all_blocks, problems
from rules import judge
from trial import batch_of, trial

pytestmark = [pytest.mark.slow, pytest.mark.integration]

SAMPLE = {
    "torchvision/resnet18 with a feature pyramid": 8,  # side taps, several outputs
    "torchvision/lraspp_mobilenet_v3_large": 10,  # a tap half way
    "timm/test_byobnet": 4,
    "timm/dla46x_c": 12,  # trees of blocks
    "timm/edgenext_xx_small": 15,
    "timm/xcit_nano_12_p16_224": 40,  # class attention
    "timm/rexnet_100": 11,  # sums over a part of the channels
    "timm/starnet_s050": 6,
    "timm/mobilevitv2_050": 19,
    "timm/test_vit3": 19,  # a head that pools by attention
    "timm/mobilenetv3_small_050, features only": 7,
    "transformers/BertModel": 6,
    "transformers/LlamaForCausalLM": 6,
    "transformers/CohereForCausalLM": 3,  # attention and MLP side by side
    "transformers/BartModel": 10,  # an encoder and a decoder with cross-attention
    "transformers/MambaForCausalLM": 3,
    "transformers/SegformerForSemanticSegmentation": 16,  # taps at every stage
    "transformers/ResNetBackbone": 8,
    "transformers/CLIPModel": 14,  # two towers
    "transformers/Wav2Vec2Model": 7,  # positions by a convolution, added
    "transformers/PoolFormerModel": 16,
    "torch/nn.Transformer": 10,
}
NEVER_DROPPED = {"timm/rexnet_100"}  # each branch also makes the channels that have no shortcut
ENTRIES = {entry.key: entry for entry in ALL}


@pytest.mark.parametrize("key", SAMPLE)
def test_model_is_right_in_every_column(key: str) -> None:
    entry = ENTRIES[key]
    pytest.importorskip(entry.package)
    record = trial(entry)
    assert record["status"] == "unrolled", record
    assert record["expected"] == SAMPLE[key]
    assert not record["unjudged"]
    assert all_blocks(record), record
    assert not problems(record), record
    assert record["output varies"]
    assert (record["droppable"] > 0) == (key not in NEVER_DROPPED)


def test_a_missing_block_is_seen() -> None:
    """The table must not count every result of `unroll` as right: with an owner missing or changed, it reports that."""
    entry: Entry = ENTRIES["torch/nn.Transformer"]
    judgement = judge(sites(entry.build().eval().double(), batch_of(entry, 1, 0)))
    owners = [path for path, blocks in judgement.blocks.items() for _ in range(blocks)]
    pairs = [(owner, owner) for owner in owners]
    assert judgement.match(pairs) == ([], [])
    assert judgement.match([("closed", owner) for owner in owners]) == ([], [])
    assert judgement.match(pairs[1:]) == ([owners[0]], [])
    assert judgement.match([*pairs, ("elsewhere", "elsewhere")]) == ([], ["elsewhere"])
    assert judgement.match([*pairs[1:], ("elsewhere", "elsewhere")]) == ([owners[0]], ["elsewhere"])
