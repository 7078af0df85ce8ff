"""Smoke tests of an installed package, away from its source: run by ``.ci/fresh``."""

import contextlib
import importlib
import importlib.metadata
import importlib.resources
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
import torchvision


def main() -> None:
    """Stop with an error at the first thing that does not work."""
    import resnet_paths
    from resnet_paths import (
        block_values,
        drop_blocks,
        effective_paths,
        for_inference,
        gradient_by_length,
        load_data,
        load_model,
        logits_by_length,
        path_energy,
        plan_drop,
        single_deletions,
        unroll,
    )
    from resnet_paths.tradeoff import Clock, Count

    assert "site-packages" in str(Path(resnet_paths.__file__)), f"not the installed package: {resnet_paths.__file__}"
    assert importlib.resources.files("resnet_paths").joinpath("py.typed").is_file()
    assert importlib.metadata.version("resnet-paths") == resnet_paths.__version__

    data = load_data("digits", limit=24)
    net = unroll(load_model("embedded"))
    assert len(net) == 27
    split = gradient_by_length(net, data.x[:2], data.labels[:2])
    assert split.residual is not None
    assert split.residual < 1e-4
    assert logits_by_length(net, data.x[:2]).residual < 1e-4
    assert effective_paths(path_energy(net, data.x[:2], data.labels[:2], draws=2)).share.shape == (28,)
    assert single_deletions(net, data, progress=False).values.shape == (27,)
    assert plan_drop(net, data, goal=Count(1), clock=Clock(seconds=0.01), progress=False).point.dropped

    model = torchvision.models.resnet18(num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    resnet18 = unroll(model, x)
    assert torch.equal(resnet18(x), model(x))
    assert torch.allclose(for_inference(resnet18)(x), model(x), atol=1e-4)
    smaller = drop_blocks(model, ["layer3.1"])
    gates = torch.ones(8)
    gates[resnet18.index("layer3.1")] = 0
    assert torch.allclose(smaller(x), resnet18(x, gates), atol=1e-5)
    vit = unroll(torchvision.models.vit_b_16(image_size=32, num_classes=3).eval())
    assert len(vit) == 24
    small = unroll(torchvision.models.resnet18(num_classes=10).eval())
    colour = load_data("digits", limit=4)
    images = type(colour)(torch.rand(4, 3, 32, 32), colour.labels, colour.classes, (0.5,) * 3, (0.5,) * 3, "noise")
    assert block_values(small, images, progress=False).values.shape == (8,)
    public_names()
    command_line()
    print(
        f"resnet_paths {resnet_paths.__version__} works with Python {sys.version.split()[0]}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )


def public_names() -> None:
    """Every public name of every package can be imported; those of extras say which extra."""
    import resnet_paths

    for package in sorted(Path(str(resnet_paths.__file__)).parent.glob("*/__init__.py")):
        module = importlib.import_module(f"resnet_paths.{package.parent.name}")
        for name in getattr(module, "__all__", ()):
            try:
                getattr(module, name)
            except ImportError as error:
                if "pip install" not in str(error):
                    raise


def command_line() -> None:
    """The commands, in this process."""
    from resnet_paths.cli import app

    with tempfile.TemporaryDirectory() as folder:
        for arguments in (
            ["--version"],
            ["unroll"],
            ["lesion", "--limit", "24", "--json", "--out", folder],
            ["paths", "--limit", "2", "--draws", "2", "--json", "--out", folder],
            ["drop", "--blocks", "3,layer3.4", "--no-onnx", "--limit", "24", "--json", "--out", folder],
        ):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                code = app(arguments, standalone_mode=False)
            assert not code, f"resnet-paths {' '.join(arguments)} ended with {code}"
            if "--json" in arguments:
                json.loads(printed.getvalue())


if __name__ == "__main__":
    main()
