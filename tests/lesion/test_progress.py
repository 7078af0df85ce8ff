"""Where progress is shown: on a terminal's standard error, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from resnet_paths import unroll
from resnet_paths.data import ImageData
from resnet_paths.lesion import evaluate_gates, metric_named
from resnet_paths.models import cifar_resnet


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_bars_leave_standard_output_alone(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = unroll(cifar_resnet(8, widths=(4, 4, 8)).eval())
    images, labels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3)
    data = ImageData(images, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "black")
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    evaluate_gates(net, data, torch.tensor([[1.0, 0.0, 1.0]]), metric_named("error")[1], progress=True)
    assert ("evaluating" in shown.getvalue()) is (stream is Terminal)
    assert capsys.readouterr().out == ""
