"""What tokenizers and image processors return is a ``UserDict``: taken wherever a dict of arguments is."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch

from resnet_paths import drop_blocks, gradient_by_length, single_deletions, unroll
from resnet_paths.data import Examples
from resnet_paths.network import for_inference
from resnet_paths.surgery import refit_blocks
from resnet_paths.tradeoff import measure_latency

transformers = pytest.importorskip("transformers")


def test_the_answers_are_those_of_a_plain_dict() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=13, n_positions=8)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    words = torch.randint(13, (6, 5))
    plain = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    encoded = transformers.BatchEncoding(plain)
    assert isinstance(encoded, UserDict)
    net, other = unroll(model, plain), unroll(model, encoded)
    assert [block.name for block in net] == [block.name for block in other]
    for x in (plain, encoded):
        for runner in (net, other, for_inference(other)):
            torch.testing.assert_close(runner(x), model(**plain).logits, rtol=1e-10, atol=1e-12)
    splits = [gradient_by_length(net, x, words, at=0, loss="next_token_loss").gradient for x in (plain, encoded)]
    assert torch.equal(*splits)
    smaller = [drop_blocks(model, [1], example_input=x)(**plain).logits for x in (plain, encoded)]
    assert torch.equal(*smaller)
    refitted = [refit_blocks(net, [1], x).model(**plain).logits for x in (plain, encoded)]
    assert torch.equal(*refitted)
    studies = [
        single_deletions(net, data, metric="perplexity", progress=False)
        for data in (Examples(plain, words), (encoded, words))
    ]
    assert (studies[0].values == studies[1].values).all()
    assert measure_latency(model, encoded, seconds=0.0).batch == 6
