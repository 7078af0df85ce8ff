"""The folder of a smaller network: weights, programs, how to load them, and a check against the plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import resnet_paths as rp

from ..files import write_text

if TYPE_CHECKING:
    from torch import nn

_NEAR = 0.001  # share of answers by which an exported program may differ from the model, by rounding

_README = """\
# A smaller network

`{model}` without {names}.

The exported program, without resnet_paths (any batch size, inference only):

```python
import torch

program = torch.export.load("model.pt2").module()
logits = program(images)  # {shape}, normalised by mean {mean} and std {std}
```

{onnx}The module, for training or analysis:

```python
from resnet_paths import load_model

model = load_model("{folder}")
```

The same with your own class and the weights in `model.safetensors`:

```python
from resnet_paths import drop_blocks
from safetensors.torch import load_file

model = drop_blocks(your_model, {listed})
model.load_state_dict(load_file("model.safetensors"))
```

`resnet-paths report --model {folder}` analyses it. `torch.save(model, "model.pt")` saves the entire module, in a file
that loads wherever your class can be imported.
"""

_ONNX = """\
In ONNX Runtime:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
logits = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
```

"""


def write_smaller(
    smaller: nn.Module, spec: str, names: tuple[str, ...], images: rp.ImageData, out: Path, *, onnx: bool = True
) -> dict[str, Path]:
    """Write a smaller network as a folder that ``load_model`` and ``--model`` read.

    Args:
        smaller: the network.
        spec: the name by which the full network was loaded.
        names: the blocks dropped from it.
        images: example images.
        out: the folder.
        onnx: write the ONNX file too.
    """
    from ..graph.inputs import placed
    from ..models.reading import facts_of

    example = placed(images.subset([0, min(1, len(images) - 1)]).x, smaller)
    files = rp.surgery.export_model(smaller, example, out, onnx=onnx)
    gone = [*facts_of(spec).get("dropped", ()), *names]
    base = rp.models.base_of(spec)
    rp.models.save_checkpoint(
        smaller,
        files["safetensors"],
        dropped=gone,
        mean=list(images.mean),
        std=list(images.std),
        classes=list(images.classes),
        input_shape=list(example.shape[1:]),
        **({} if base is None else {"base": base}),
    )
    text = _README.format(
        model=base or spec,
        names=", ".join(gone),
        shape=f"(images, {', '.join(map(str, example.shape[1:]))})",
        mean=list(images.mean),
        std=list(images.std),
        onnx=_ONNX if onnx else "",
        folder=out,
        listed=gone,
    )
    files["readme"] = write_text(out / "README.md", text)
    return files


def accuracy_of_program(program: Path, images: rp.ImageData, net: rp.UnrolledNetwork) -> float:
    """The accuracy of a written program."""
    import torch

    from ..tradeoff.measures import answers

    loaded = torch.export.load(program).module()
    return float(answers(loaded, images, net.followed, like=net.model).right.mean())


def check_as_planned(plan: rp.tradeoff.DropPlan, program: Path, images: rp.ImageData, net: rp.UnrolledNetwork) -> float:
    """The accuracy of a written program on the images that certified the plan.

    Raises:
        ValueError: other images, or another accuracy than the plan's.
    """
    planned = plan.images["certify"]
    if images.fingerprint != planned.fingerprint:
        raise ValueError(
            f"expected the {planned.count} images that certified the plan, {planned.name}, got {len(images)} others "
            f"from {images.name}; plan again, or restore the images"
        )
    accuracy = accuracy_of_program(program, images, net)
    if abs(accuracy - plan.point.accuracy) > _NEAR + 1e-9:
        raise ValueError(
            f"expected the written network to have the planned accuracy of {plan.point.accuracy:.2%} on the test "
            f"images, got {accuracy:.2%}; do not use it, and plan again: versions or the machine may have changed"
        )
    return accuracy
