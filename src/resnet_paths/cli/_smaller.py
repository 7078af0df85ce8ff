"""The folder of a smaller network: weights, programs, how to load them, and a check against the plan."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import resnet_paths as rp

from ..files import write_text

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from ..data.form import Form

_NEAR = 0.001  # share by which an exported program may differ from the model, by rounding

_README = """\
# A smaller network

`{model}` without {names}.

{about}

```python
import torch

inputs = {inputs}  # in place of your own
```

{program}{onnx}The module, for training or analysis:

```python
from resnet_paths import load_model

model = load_model({folder!r})
```

The same with your own class and the weights in `model.safetensors`:

```python
from resnet_paths import drop_blocks
from safetensors.torch import load_file

model = drop_blocks(your_model, {listed}, example_input=inputs)
model.load_state_dict(load_file("model.safetensors"))
```

`resnet-paths report --model {folder}` analyses it. `torch.save(model, "model.pt")` saves the entire module if yours can
be pickled, in a file that loads wherever your class can be imported.
"""

_PROGRAM = """\
The exported program, without resnet_paths (any batch size, inference only). It returns {returned}:

```python
program = torch.export.load("model.pt2").module()
outputs = program({call})
```

"""

_ONNX = """\
In ONNX Runtime, which returns a list of all tensors of the outputs:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
outputs = session.run(None, {feeds})
```

"""


@dataclass
class Folder:
    """What was written of a smaller network.

    Attributes:
        files: by kind.
        left_out: why a file, a part of the outputs or a check is not there, by its name.
        runs_onnx: whether ONNX Runtime runs the ONNX file, and returns what the program does.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    runs_onnx: bool = False

    @cached_property
    def program(self) -> ExportedProgram | None:
        """The exported program, read from its file once; None if it was left out."""
        import torch

        if "pt2" not in self.files:
            return None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.11, of its own buffer
            return torch.export.load(self.files["pt2"])

    @property
    def notes(self) -> list[str]:
        """A line for each thing that was left out."""
        return [f"{name} was left out: {why}" for name, why in self.left_out.items()]


def example_for(data: rp.data.InMemory, model: nn.Module) -> tuple[Any, int]:
    """A few examples as a model reads them, and their number: not the length of anything that all examples share."""
    import torch

    from ..graph.inputs import placed
    from ..graph.trees import leaves

    shared = {
        len(leaf) for leaf in leaves(data.x) if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) != len(data)
    }
    count = next(number for number in range(2, 3 + len(shared)) if number not in shared)
    return placed(data.subset([index % len(data) for index in range(count)]).x, model), count


def form_for(data: rp.data.InMemory, model: nn.Module) -> Form:
    """The form of the model's input; refuse, before any work, what no file can hold."""
    from ..data.form import form_of

    return form_of(*example_for(data, model))


def write_smaller(
    smaller: nn.Module, spec: str, names: tuple[str, ...], data: rp.data.InMemory, out: Path, *, onnx: bool = True
) -> Folder:
    """Write a smaller network as a folder that ``load_model`` and ``--model`` read.

    Args:
        smaller: the network.
        spec: the name by which the full network was loaded.
        names: the blocks dropped from it.
        data: examples of what it reads.
        out: the folder.
        onnx: write the ONNX file too.
    """
    from ..files import made_folder
    from ..models.reading import facts_of

    example, count = example_for(data, smaller)
    form = form_for(data, smaller)
    gone = [*facts_of(spec).get("dropped", ()), *names]
    base = rp.models.base_of(spec)
    facts: dict[str, Any] = {"dropped": gone, "input": form, **_preprocessing(data)}
    written = Folder()
    files = written.files
    files["safetensors"] = rp.models.save_checkpoint(
        smaller, made_folder(out) / "model.safetensors", **facts, **({} if base is None else {"base": base})
    )
    text = _README.format(
        model=base or spec,
        names=", ".join(gone),
        about=_about(data, form),
        inputs=_input_code(form),
        program=_written_program(smaller, example, count, out, written, form),
        onnx=_written_onnx(example, out, written) if onnx else "",
        folder=str(out),
        listed=gone,
    )
    notes = "".join(f"\n{note[:1].upper()}{note[1:]}.\n" for note in written.notes)
    files["readme"] = write_text(out / "README.md", text + notes)
    return written


def _preprocessing(data: rp.data.InMemory) -> dict[str, Any]:
    """The known preprocessing of images; nothing for data that are passed in the form that the model reads."""
    if not isinstance(data, rp.ImageData):
        return {}
    return {"mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}


def _about(data: rp.data.InMemory, form: Form) -> str:
    if isinstance(data, rp.ImageData):
        shape = ", ".join(map(str, form["shape"]))
        return f"It reads images, ({shape}) each, normalised by mean {list(data.mean)} and std {list(data.std)}."
    return f"It reads {data.nouns} in the form in which they were given; no preprocessing is known. Such as these two:"


def _input_code(form: Form) -> str:
    """The expression for an input, each item of a dict on its own line."""
    from ..data.form import code_of

    if form["kind"] != "dict":
        return code_of(form)
    lines = "".join(f"    {name!r}: {code_of(item)},\n" for name, item in form["items"].items())
    return "{\n" + lines + "}"


def _written_program(smaller: nn.Module, example: Any, count: int, out: Path, written: Folder, form: Form) -> str:
    """Write the exported program; the text about it, which is empty if it was left out."""
    import torch

    from ..graph.inputs import call_model
    from ..surgery.export import exported_program, left_out_of_outputs, write_program

    try:
        program = exported_program(smaller, example, batch=count)
    except ValueError as error:
        written.left_out["model.pt2"] = str(error)
        return ""
    written.files["pt2"] = write_program(program, out / "model.pt2")
    with torch.inference_mode():
        outputs = call_model(program.module(), example)
        gone = left_out_of_outputs(call_model(smaller, example))
    for part in gone:
        written.left_out[f"{part} of the outputs of the program"] = "it is not a tensor"
    calls = {"dict": "**inputs", "tuple": "*inputs"}
    return _PROGRAM.format(returned=_returned(outputs, count), call=calls.get(form["kind"], "inputs"))


def _returned(outputs: Any, count: int) -> str:
    """The form of outputs, in words."""
    import torch

    if isinstance(outputs, torch.Tensor):
        batch = ("batch", *outputs.shape[1:]) if outputs.ndim and len(outputs) == count else tuple(outputs.shape)
        return f"a tensor ({', '.join(map(str, batch))})"
    if isinstance(outputs, dict):
        parts = (f"`{name}`, {_returned(part, count)}" for name, part in outputs.items())
        return f"a dict with {'; '.join(parts)}"
    if isinstance(outputs, tuple | list):
        return f"a {type(outputs).__name__} of {'; '.join(_returned(part, count) for part in outputs)}"
    return repr(outputs)


def _written_onnx(example: Any, out: Path, written: Folder) -> str:
    """Write the program as ONNX, and compare where ONNX Runtime is installed; the text about it."""
    from ..surgery.export import onnx_program, write_onnx

    if written.program is None:
        written.left_out["model.onnx"] = "it is made from the exported program"
        return ""
    try:
        converted = onnx_program(written.program)
        feeds = _feeds([one.name for one in converted.model_proto.graph.input], example)
    except ValueError as error:
        written.left_out["model.onnx"] = str(error)
        return ""
    file = write_onnx(converted, out / "model.onnx")
    try:
        written.runs_onnx = _same_in_onnx_runtime(file, written.program.module(), example)
    except ValueError as error:
        written.left_out["the check of model.onnx in ONNX Runtime"] = str(error)
    written.files["onnx"] = file
    return _ONNX.format(feeds=feeds)


def _same_in_onnx_runtime(file: Path, program: nn.Module, example: Any) -> bool:
    """Whether ONNX Runtime runs the file, which must then return what the program does.

    Raises:
        ValueError: it cannot run it, or returns something else.
    """
    import torch

    from ..graph.inputs import call_model, relative_difference
    from ..graph.trees import leaves, map_leaves
    from ..surgery.export import ONNX_RUNTIME, missing
    from ..tradeoff.runtimes import onnx_session

    if missing(ONNX_RUNTIME):
        return False
    with torch.inference_mode():
        tensors = [leaf.cpu() for leaf in leaves(call_model(program, example)) if isinstance(leaf, torch.Tensor)]
    on_cpu = map_leaves(example, lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf)
    ran = [torch.as_tensor(array, device="cpu") for array in call_model(onnx_session(file), on_cpu)]
    pairs = list(zip(ran, tensors, strict=False))
    apart = [relative_difference(one.double(), other.double()) for one, other in pairs if one.shape == other.shape]
    if not len(apart) == len(ran) == len(tensors) or max(apart, default=0.0) > _NEAR:
        raise ValueError(
            f"expected the {len(tensors)} outputs of the program, got {len(ran)}, relative differences {apart}; do not "
            "use model.onnx"
        )
    return True


def _feeds(names: list[str], example: Any) -> str:
    """The code of the arrays by name that an ONNX session takes.

    Raises:
        ValueError: the program has other inputs than tensors of the example.
    """
    paths = list(_tensors(example, "inputs"))
    if isinstance(example, dict) and set(example) == set(names):
        paths = [f"inputs[{name!r}]" for name in names]
    if len(paths) != len(names):
        raise ValueError(f"expected an ONNX program with an input for each of {len(paths)} tensors, got {names}")
    return f"{{{', '.join(f'{name!r}: {path}.numpy()' for name, path in zip(names, paths, strict=True))}}}"


def _tensors(nest: Any, path: str) -> list[str]:
    """The expressions of all tensors in a nest."""
    import torch

    from ..graph.trees import items

    if isinstance(nest, torch.Tensor):
        return [path]
    return [found for key, item in items(nest) for found in _tensors(item, f"{path}[{key!r}]")]


def check_as_planned(
    plan: rp.tradeoff.DropPlan, written: Folder, data: rp.data.InMemory, net: rp.UnrolledNetwork
) -> dict[str, float]:
    """Measure what was written on the data that certified the plan: the program, or the weights if there is none.

    Returns:
        The accuracy, or without labels of classes the disagreement; and the plan's metric, if it has one.

    Raises:
        ValueError: other data, or other values than the plan's.
    """
    planned = plan.images["certify"]
    if data.fingerprint != planned.fingerprint:
        raise ValueError(
            f"expected the {planned.count} {planned.nouns} that certified the plan, {planned.name}, got {len(data)} "
            f"others from {data.name}; plan again, or restore the {planned.nouns}"
        )
    expected, measured = _planned_values(plan.point), _measured_values(plan, written, data, net)
    for name, value in expected.items():
        sized = max(abs(value), abs(plan.points[0].value or 0.0))
        allowed = _NEAR + 1e-9 if _is_share(name) else _NEAR * sized
        if not abs(measured[name] - value) <= allowed:
            shown = value_shown(name)
            raise ValueError(
                f"expected the written network to have the planned {name} of {shown(value)} on the test "
                f"{data.nouns}, got {shown(measured[name])}; do not use it, plan again: versions or the machine may "
                "have changed"
            )
    return measured


def value_shown(metric: str) -> Callable[[float], str]:
    """How values of a metric, or of the accuracy, are written: shares of answers in percent."""
    return lambda value: f"{value:.2%}" if _is_share(metric) else f"{value:.4g}"


def _is_share(metric: str) -> bool:
    from ..data.metrics import is_share

    return metric == "accuracy" or is_share(metric)


def _planned_values(point: rp.tradeoff.PlanPoint) -> dict[str, float]:
    values = {} if math.isnan(point.accuracy) else {"accuracy": point.accuracy}
    if not values and not math.isnan(point.disagreement):
        values["disagreement"] = point.disagreement
    return values if point.value is None else {**values, point.metric: point.value}


def _measured_values(
    plan: rp.tradeoff.DropPlan, written: Folder, data: rp.data.InMemory, net: rp.UnrolledNetwork
) -> dict[str, float]:
    """The same of what was written."""
    from ..tradeoff.measures import answers

    model: nn.Module
    if written.program is not None:
        model = written.program.module()
    else:
        model = rp.models.load_model(str(written.files["safetensors"].parent))
        model = model.to(next((one.device for one in net.model.parameters()), None))
    size, planned = plan.split.batch_size, _planned_values(plan.point)
    outputs, values = answers(model, data, net.followed, size, like=net.model), {}
    if "accuracy" in planned:
        values["accuracy"] = float(outputs.right.mean())
    if set(planned) - {"accuracy"}:
        full = answers(net.model, data, net.followed, size)
        if "disagreement" in planned:
            values["disagreement"] = float(1 - outputs.agree(full).mean())
        if plan.point.metric:
            metric = rp.lesion.metric_named(plan.point.metric)[1]
            values[plan.point.metric] = float(outputs.values(metric, full).mean())
    return values
