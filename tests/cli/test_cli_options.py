"""Options have the types and defaults of the functions that receive them; the commands are plain functions."""

import dataclasses
import inspect
import json

import pytest

import resnet_paths as rp
from resnet_paths.cli import names, options, report, reproduce, unroll
from resnet_paths.report.claims import PAPERS
from resnet_paths.report.stages import STAGES


def defaults(function: object) -> dict[str, object]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_defaults_are_those_of_the_functions() -> None:
    recipe = dataclasses.asdict(rp.training.Recipe())
    training = dataclasses.asdict(options.Training())
    assert training.keys() == recipe.keys()
    by_data = {"shift", "flip"}  # None on the command line: as the images are
    assert {name for name in recipe if training[name] != recipe[name]} == by_data

    family, network = dataclasses.asdict(options.Family()), defaults(rp.cifar_resnet)
    widths = tuple(map(int, family.pop("widths").split(",")))
    assert {**family, "widths": widths} == {name: network[name] for name in [*family, "widths"]}

    planning, clock = options.Planning(), rp.tradeoff.Clock()
    assert (planning.latency_batch, planning.latency_seconds) == (clock.batch, clock.seconds)
    assert (planning.runtime, planning.threads) == (clock.runtime, clock.threads)
    assert planning.confidence == rp.tradeoff.AccuracyDrop(0.01).confidence

    for command, function, same in (
        (report.report, rp.report.write_report, ("budget", "accuracy_drop", "seed", "batch_size")),
        (reproduce.reproduce, rp.report.claims.reproduce, ("seed", "seeds")),
    ):
        assert [defaults(command)[name] for name in same] == [defaults(function)[name] for name in same]


def test_names_of_stages_and_claims_are_those_that_there_are() -> None:
    assert {stage.name: stage.title for stage in STAGES} == names.STAGES
    assert {name: paper.citation for name, paper in PAPERS.items()} == names.PAPERS
    assert {name: tuple(claim.name for claim in paper.claims) for name, paper in PAPERS.items()} == names.CLAIMS


def test_a_command_is_a_plain_function(capsys: pytest.CaptureFixture[str]) -> None:
    unroll.unroll("cifar-resnet8", as_json=True)
    assert [block["name"] for block in json.loads(capsys.readouterr().out)] == ["layer1.0", "layer2.0", "layer3.0"]
