from importlib.metadata import version

import resnet_paths


def test_version_is_the_one_installed() -> None:
    assert resnet_paths.__version__ == version("resnet-paths")
