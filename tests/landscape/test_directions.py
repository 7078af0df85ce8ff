import pytest
import torch
from torch import nn

from damage import tiny
from resnet_paths.landscape import (
    Direction,
    cosine,
    direction_between,
    direction_from,
    load_direction,
    random_direction,
    save_direction,
    shared_direction,
)
from resnet_paths.models import cifar_resnet


def small(**options) -> nn.Module:
    return cifar_resnet(8, widths=(4, 5, 6), seed=0, **options).double()


@pytest.mark.parametrize("normalise", ["filter", "layer", "model"])
def test_norms_are_those_of_the_weights(normalise: str) -> None:
    model = tiny()
    direction = random_direction(model, seed=3, normalise=normalise)
    weights = {name: p.detach() for name, p in model.named_parameters() if name in direction.tensors}
    total = sum(float(p.detach().square().sum()) for p in weights.values()) ** 0.5
    assert direction.norm == pytest.approx(total, rel=1e-12)
    for name, weight in weights.items():
        d, w = direction.tensors[name].flatten(1), weight.flatten(1)
        if normalise == "filter":
            torch.testing.assert_close(d.norm(dim=1), w.norm(dim=1), rtol=1e-12, atol=0)
        elif normalise == "layer":
            assert float(d.norm()) == pytest.approx(float(w.norm()), rel=1e-12)
            assert not torch.allclose(d.norm(dim=1), w.norm(dim=1), rtol=1e-3)
        else:
            assert not torch.allclose(d.norm(), w.norm(), rtol=1e-3)


def test_norms_biases_and_buffers_do_not_move_by_default() -> None:
    model = tiny()
    direction = random_direction(model)
    assert set(direction.tensors) == {
        name for name, p in model.named_parameters() if name.endswith("weight") and p.ndim >= 2
    }
    everything = random_direction(model, include="all")
    assert set(everything.tensors) == dict(model.named_parameters()).keys()
    assert not any("running" in name for name in everything.tensors)


def test_a_bias_counts_as_a_whole_and_not_as_filters_of_one_number() -> None:
    model = tiny()
    nn.init.normal_(model.linear.bias)
    direction = random_direction(model, include="all", seed=1)
    for name, parameter in model.named_parameters():
        parameter = parameter.detach()
        if parameter.ndim == 1:
            drawn = direction.tensors[name]
            assert float(drawn.norm()) == pytest.approx(float(parameter.norm()), rel=1e-12)
            assert not torch.allclose(drawn.abs(), parameter.abs(), rtol=1e-3)


def test_the_draw_is_gaussian() -> None:
    model = nn.Linear(400, 400)
    values = random_direction(model, normalise="none").tensors["weight"].double().flatten()
    assert abs(float(values.mean())) < 0.02
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    assert float((values**4).mean()) == pytest.approx(3, abs=0.15)


def test_vectors_in_the_shape_of_maps_and_transposed_filters() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)
            self.down = nn.Conv2d(6, 4, 3, groups=2)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))
            self.position = nn.Parameter(torch.randn(1, 5, 4))
            self.one = nn.Linear(7, 1)

    model = Scaled().double()
    direction = random_direction(model, seed=2)
    assert set(direction.tensors) == {"up.weight", "down.weight", "position", "one.weight"}
    drawn, weight = direction.tensors["up.weight"], model.up.weight
    for group in range(2):
        for output in range(3):  # one filter: the inputs of the group, one output
            rows = slice(2 * group, 2 * group + 2)
            assert float(drawn[rows, output].norm()) == pytest.approx(float(weight[rows, output].norm()), rel=1e-12)
    torch.testing.assert_close(
        direction.tensors["down.weight"].flatten(1).norm(dim=1), model.down.weight.flatten(1).norm(dim=1)
    )


def test_filters_that_are_zero_stay_zero() -> None:
    model = small()
    with torch.no_grad():
        model.conv1.weight[1] = 0
    drawn = random_direction(model).tensors["conv1.weight"]
    assert bool((drawn[1] == 0).all())
    assert bool(drawn.isfinite().all())


def test_seeds() -> None:
    model = small()
    state = torch.get_rng_state()
    one, again, other = (random_direction(model, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one.tensors[name], again.tensors[name]) for name in one.tensors)
    assert abs(cosine(one, other)) < 0.1
    assert cosine(one, again) == pytest.approx(1)
    single = random_direction(small().float(), seed=1)
    for name in one.tensors:
        torch.testing.assert_close(single.tensors[name].double(), one.tensors[name], rtol=1e-6, atol=1e-7)


def test_twins_share_the_draw_where_shapes_match() -> None:
    plain, residual = small(residual=False), small(shortcut="B")
    raw = [random_direction(model, seed=4, normalise="none") for model in (plain, residual)]
    assert raw[0].tensors.keys() < raw[1].tensors.keys()
    assert all("shortcut" in name for name in raw[1].tensors.keys() - raw[0].tensors.keys())
    assert all(torch.equal(raw[0].tensors[name], raw[1].tensors[name]) for name in raw[0].tensors)
    part = shared_direction(raw[1], plain)
    assert part.tensors.keys() == raw[0].tensors.keys()
    assert part.facts["left_out"] == len(raw[1].tensors) - len(raw[0].tensors)
    with pytest.raises(ValueError, match="expected a model with parameters"):
        shared_direction(raw[1], nn.Linear(2, 2))


def test_between_two_checkpoints() -> None:
    start, end = small(), cifar_resnet(8, widths=(4, 5, 6), seed=1).double()
    step = direction_between(start, end)
    for name, parameter in start.named_parameters():
        torch.testing.assert_close(parameter + step.tensors[name], dict(end.named_parameters())[name])
    again = direction_between(start, end.state_dict())
    assert cosine(step, again) == pytest.approx(1)
    assert not any("running" in name for name in again.tensors)
    with pytest.raises(ValueError, match=r"none of this name and shape for \['conv1.weight'"):
        direction_between(start, nn.Linear(2, 2))


def test_given_tensors() -> None:
    model = small()
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    direction = direction_from(model, vector, kind="the weights", facts={"share": 0.5})
    assert all(torch.equal(direction.tensors[name], p) for name, p in model.named_parameters())
    assert direction.facts["share"] == 0.5
    with pytest.raises(ValueError, match="expected a vector of"):
        direction_from(model, vector[1:])
    with pytest.raises(ValueError, match="conv9"):
        direction_from(model, {"conv9": vector})
    with pytest.raises(ValueError, match="got shape"):
        direction_from(model, {"conv1.weight": torch.zeros(2)})


def test_files(tmp_path) -> None:
    direction = Direction(random_direction(small(), seed=5).tensors, "random filter", 5, {"share": 0.25, "of": "a"})
    path = save_direction(direction, tmp_path / "deep" / "d.safetensors")
    loaded = load_direction(path)
    assert (loaded.kind, loaded.seed, dict(loaded.facts)) == ("random filter", 5, {"share": 0.25, "of": "a"})
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in direction.tensors.items())
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="expected a direction"):
        load_direction(tmp_path / "other.safetensors")


def test_wrong_choices() -> None:
    with pytest.raises(ValueError, match="expected normalise"):
        random_direction(small(), normalise="row")
    with pytest.raises(ValueError, match="expected include"):
        random_direction(small(), include="some")
    with pytest.raises(ValueError, match="got none in BatchNorm2d"):
        random_direction(nn.BatchNorm2d(3))
    only = random_direction(small(), include=lambda name, parameter: name == "linear.bias")
    assert list(only.tensors) == ["linear.bias"]


def test_filter_norm_agrees_with_loss_landscapes_where_there_are_filters() -> None:
    parameters = pytest.importorskip("loss_landscapes.model_interface.model_parameters")
    model = small()
    names = list(random_direction(model).tensors)
    raw = random_direction(model, seed=6, normalise="none")
    for normalise, method in (("filter", "filter_normalize_"), ("layer", "layer_normalize_")):
        theirs = parameters.ModelParameters([raw.tensors[name].clone() for name in names])
        weights = parameters.ModelParameters([dict(model.named_parameters())[name].detach() for name in names])
        getattr(theirs, method)(weights)
        ours = random_direction(model, seed=6, normalise=normalise)
        for name, tensor in zip(names, theirs.parameters, strict=True):
            torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-10, atol=0)
