import pytest
import torch
from torch import nn

from resnet_paths.models import cifar_resnet
from resnet_paths.surgery import drop_blocks
from resnet_paths.tradeoff import count_flops, count_parameters, latency_by_unit, measure_latency, recalibrate_batchnorm


def test_flops_and_parameters_by_hand() -> None:
    model = cifar_resnet(8, widths=(4, 4, 4)).eval()
    x = torch.randn(2, 3, 8, 8)
    stem, unit64, unit16, unit4 = 3 * 4 * 9, 2 * 4 * 4 * 9 * 64, (4 * 4 * 9 * 16) * 2, (4 * 4 * 9 * 4) * 2
    assert count_flops(model, x) == 2 * 2 * (stem * 64 + unit64 + unit16 + unit4 + 4 * 10)
    smaller = drop_blocks(model, [0])
    assert count_flops(model, x) - count_flops(smaller, x) == 2 * 2 * unit64
    assert count_parameters(model) - count_parameters(smaller) == 2 * (4 * 4 * 9 + 8)


def test_latency_orders_small_and_large() -> None:
    x = torch.randn(8, 3, 32, 32)
    small = measure_latency(cifar_resnet(8).eval(), x, seconds=0.2)
    assert small.batch == 8
    assert small.device == "cpu"
    assert 0 < small.low <= small.median <= small.high
    assert small.runs >= 5


def test_recalibration_gives_the_statistics_of_the_data() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3)).double()
    batches = [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(3)]
    model.train()
    model[0].eval()
    assert recalibrate_batchnorm(model, [(x, None) for x in batches]) == 1
    values = [model[0](x).transpose(0, 1).flatten(1) for x in batches]
    assert torch.allclose(model[1].running_mean, torch.stack([v.mean(1) for v in values]).mean(0))
    assert torch.allclose(model[1].running_var, torch.stack([v.var(1) for v in values]).mean(0))
    assert model[1].momentum == 0.3
    assert [module.training for module in model.modules()] == [True, False, True]


def test_recalibration_keeps_flags_after_an_exception_and_says_what_is_wrong() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    with pytest.raises(RuntimeError):
        recalibrate_batchnorm(model, [torch.randn(2, 5)])
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batchnorm(model, [])
    assert recalibrate_batchnorm(nn.Linear(2, 2), []) == 0


def test_latency_by_unit_times_every_piece() -> None:
    import torchvision

    from resnet_paths import unroll

    net = unroll(torchvision.models.resnet18(num_classes=5).eval())
    found = latency_by_unit(net, torch.randn(1, 3, 64, 64), seconds=0.005)
    assert found.units == tuple(unit.name for unit in net)
    assert all(value > 0 for value in (*found.branch, *found.join, found.stem, found.whole.median))
    assert [value > 0 for value in found.shortcut] == [unit.shortcut != "identity" for unit in net]
    assert 0.3 < sum(found.share) < 1
