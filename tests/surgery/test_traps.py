"""Ways to write residual models in which careless surgery goes wrong silently."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from damage import gated
from resnet_paths.network import NotDroppableError, unroll
from resnet_paths.surgery import drop_blocks, lesioned


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.a(x)


class TwoNames(nn.Module):
    """Each block is registered twice, and called by its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Plain(), Plain()
        self.blocks = nn.ModuleList([self.one, self.two])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class InPlaceFirst(nn.Module):
    """A child changes the block's input in place, so the shortcut carries the changed value."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))

    def forward(self, x):
        return self.body(x) + x


class Picky(nn.Module):
    """A required argument by name after an optional one; direct parameters; buffers; constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.3))
        self.register_buffer("shift", torch.full((4,), 3.0), persistent=False)
        self.plain = torch.full((4,), 2.0)

    def forward(self, x, sizes=(1, 2), *, weight):
        x = x + self.a(x) * weight
        return x + self.scale * self.b(x) * sizes[1] + self.shift * self.plain * self.a.bias


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Picky(), Picky()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x, weight=2.0)
        return x


class SideOutput(nn.Module):
    """A block also returns its attention weights, which the model throws away."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(4, 4)

        def forward(self, x):
            weights = torch.softmax(self.q(x), -1)
            return weights * x, weights

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.mlp = SideOutput.Attention(), nn.Linear(4, 4)

        def forward(self, x):
            y, weights = self.attention(x)
            x = x + y
            return x + self.mlp(x), {"weights": weights}

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.Block(), self.Block()])

    def forward(self, x):
        for block in self.blocks:
            x, _ = block(x)
        return x


class AddModule(nn.Module):
    """The addition is in a separate module."""

    class Add(nn.Module):
        def forward(self, one, other):
            return one + other

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.add, self.float_add = nn.Linear(4, 4), AddModule.Add(), torch.ao.nn.quantized.FloatFunctional()
            self.b = nn.Linear(4, 4)

        def forward(self, x):
            x = F.relu(self.add(self.a(x), x))
            return self.float_add.add(x, self.b(x))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(self.Block(), self.Block())

    def forward(self, x):
        return self.blocks(x)


class SharedRelu(nn.Module):
    """One in-place ReLU module for everything."""

    class Block(nn.Module):
        def __init__(self, relu: nn.Module) -> None:
            super().__init__()
            self.a, self.b, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), relu

        def forward(self, x):
            out = self.b(self.relu(self.a(x)))
            out += x
            return self.relu(out)

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(*(self.Block(self.relu) for _ in range(3)))

    def forward(self, x):
        return self.blocks(x)


class LambdaShortcut(nn.Module):
    """A function held as an attribute; a block that runs twice."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)
            self.shortcut = lambda x: F.pad(x, (1, 1))

        def forward(self, x):
            return self.shortcut(x) + self.a(x)

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.again = self.Block(), nn.Linear(6, 4), Plain()

    def forward(self, x):
        return self.again(torch.relu(self.again(self.narrow(self.wide(x)))))


class Cache:
    """What a language model hands from layer to layer: changed by each, and not a value of the graph."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def update(self, value: torch.Tensor) -> torch.Tensor:
        self.seen.append(value)
        return value


class Cached(nn.Module):
    """Blocks that hand a cache on, in a stack whose output is a record derived from dict."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x, cache=None):
            return self.a(cache.update(x))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.a = Cached.Attention(), nn.Linear(4, 4)

        def forward(self, x, cache=None):
            x = x + self.attention(x, cache=cache)
            return x + self.a(x)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.a = nn.ModuleList([Cached.Block(), Cached.Block()]), nn.Linear(4, 4)

        def forward(self, x, cache):
            for block in self.blocks:
                x = block(x, cache)
            return Record(last=x + self.a(x), length=len(cache.seen))

    def __init__(self) -> None:
        super().__init__()
        self.stack, self.a = Cached.Stack(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.stack(x, cache=Cache()).last
        return x + self.a(x)


class Record(dict):
    """As Hugging Face's outputs are: items are attributes too."""

    def __init__(self, **items) -> None:
        super().__init__(items)
        self.__dict__.update(items)


_ALL = [TwoNames, InPlaceFirst, Parent, SideOutput, AddModule, SharedRelu, LambdaShortcut]


def build(kind: type) -> nn.Module:
    torch.manual_seed(0)
    if kind is InPlaceFirst:
        return nn.Sequential(nn.Linear(4, 4), InPlaceFirst(), InPlaceFirst()).eval()
    return kind().eval()


@pytest.mark.parametrize("kind", _ALL)
def test_each_block_alone_and_all_together(kind: type) -> None:
    model, x = build(kind), torch.randn(3, 4)
    net, whole = unroll(model), model(x.clone())
    for dropped in [*([block.index] for block in net), list(range(len(net)))]:
        expected = gated(net, x.clone(), dropped)
        smaller = drop_blocks(model, dropped)
        assert torch.allclose(smaller(x.clone()), expected)
        if kind is not LambdaShortcut:
            assert torch.equal(pickle.loads(pickle.dumps(smaller))(x.clone()), smaller(x.clone()))
        assert torch.equal(copy.deepcopy(smaller)(x.clone()), smaller(x.clone()))
        assert smaller.state_dict().keys() <= model.state_dict().keys()
        with lesioned(model, dropped):
            assert torch.allclose(model(x.clone()), expected)
        assert torch.equal(model(x.clone()), whole)


@pytest.mark.parametrize("kind", [TwoNames, SideOutput, AddModule, SharedRelu, Parent])
def test_the_branch_is_really_gone(kind: type) -> None:
    model = build(kind)
    net = unroll(model)
    smaller = drop_blocks(net, [0])
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, smaller))
    assert before - after == net[0].branch_parameters > 0
    assert type(smaller) is kind


def test_the_copy_shares_nothing_with_the_model() -> None:
    for kind in _ALL:
        model = build(kind)
        mine = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]} | {id(m) for m in model.modules()}
        smaller = drop_blocks(model, [0])
        theirs = {id(t) for t in [*smaller.parameters(), *smaller.buffers()]} | {id(m) for m in smaller.modules()}
        assert not mine & theirs


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = x + self.a(x)
        return x + F.dropout(self.b(x), 0.5, self.training)


def test_functional_dropout_follows_the_mode_also_after_pickling() -> None:
    model, x = nn.Sequential(Dropping(), nn.Linear(6, 6)).eval(), torch.randn(3, 6)
    smaller = pickle.loads(pickle.dumps(drop_blocks(model, [0])))
    assert torch.equal(smaller(x), smaller(x))
    smaller.train()
    assert not torch.equal(smaller(x), smaller(x))
    with lesioned(model, [0]):
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_a_hook_on_the_module_that_adds_moves_with_it() -> None:
    model, x, seen = nn.Sequential(Parent(), nn.Linear(4, 4)).eval(), torch.randn(2, 4), []
    model[0].blocks[0].register_forward_hook(lambda module, args, out: seen.append(1) or out * 2)
    model[0].blocks[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    net = unroll(model)
    smaller, expected = drop_blocks(model, [0]), gated(net, x, [0])
    seen.clear()
    assert torch.allclose(smaller(x), expected)
    assert seen == [1]


def test_a_hook_on_the_addition_reads_the_branch_so_the_block_stays() -> None:
    model = build(AddModule)
    model.blocks[0].add.register_forward_hook(lambda *_: None)
    net = unroll(model)
    assert not net[0].droppable
    with pytest.raises(NotDroppableError, match="hooks"):
        drop_blocks(net, [0])


def test_a_block_whose_branch_is_needed_elsewhere_is_refused() -> None:
    class Leaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 4)

        def forward(self, x):
            hidden = self.a(x)
            x = x + self.b(hidden)
            return x + self.c(x) / hidden.shape[1]

    with pytest.raises(NotDroppableError, match="later operations"):
        drop_blocks(Leaks().eval(), [0])
    assert drop_blocks(Leaks().eval(), [1])(torch.randn(2, 4)).shape == (2, 4)


@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
def test_objects_that_a_block_hands_on_and_records_that_it_returns(example: torch.Tensor | None) -> None:
    model, x = build(Cached), torch.randn(3, 4)
    net = unroll(model, example)
    assert len(net) == 6
    for dropped in [0], [1], [4], [0, 3, 4]:
        smaller = drop_blocks(net, dropped)
        assert torch.allclose(smaller(x), gated(net, x, dropped))
        assert torch.equal(pickle.loads(pickle.dumps(smaller))(x), smaller(x))
        with lesioned(net, dropped):
            assert type(model.stack(x, Cache())) is Record
            assert torch.equal(model(x), smaller(x))
    with pytest.raises(NotDroppableError, match="of class Cache"):
        drop_blocks(net, [5])


def test_language_models_of_hugging_face_keep_their_cache() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    x = torch.randint(0, 11, (2, 5))
    net = unroll(model, x)
    smaller = drop_blocks(net, [1, 2])
    assert torch.allclose(smaller(x).logits, net(x, [1.0, 0.0, 0.0, 1.0]))
    assert type(smaller(x)) is type(model(x))
    with pytest.warns(UserWarning, match=r"counts cached tokens by transformer\.h\.0\.attn"):
        smaller = drop_blocks(net, [0])
    with torch.no_grad():
        cache = smaller(x[:, :4], use_cache=True).past_key_values
        last = smaller(x[:, 4:], past_key_values=cache, position_ids=torch.full((2, 1), 4)).logits[:, -1]
        assert torch.allclose(last, smaller(x).logits[:, -1], atol=1e-6)


class Reshaped(nn.Module):
    """Makes its additions between methods of tensors; recorded, for its condition cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        if float(x.sum()) > 1e9:
            return x
        for layer in self.layers:
            x = x.transpose(1, 2).permute(0, 2, 1)
            x = x + layer(x).reshape(x.size(0), 3, 4)
        return x.mean(1)


def test_recorded_methods_of_tensors_pickle():
    torch.manual_seed(0)
    model, x = Reshaped().eval(), torch.randn(2, 3, 4)
    net = unroll(model, x)
    assert net.front_end == "record"
    smaller = pickle.loads(pickle.dumps(drop_blocks(net, [1])))
    torch.testing.assert_close(smaller(x), net(x, [1, 0, 1]))
