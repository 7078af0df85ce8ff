"""The device beside the CPU that tests use: a real one where there is one, else the pretend one.

Never both: a back end written in Python beside a real one takes its place, and autograd then finds no streams on the
real one.
"""

import torch

from devices import pretend
from resnet_paths.sweep.devices import available_devices

IS_REAL = available_devices()[0].type != "cpu"
IS_PRETENDED = pretend.IS_POSSIBLE and not IS_REAL
NAME = available_devices()[0].type if IS_REAL else pretend.NAME
CLOSE = {"rtol": 1e-2, "atol": 1e-3} if IS_REAL else {"rtol": 1e-5, "atol": 1e-7}
"""A real one has its own kernels."""

if IS_PRETENDED:
    pretend.make_available()
if IS_REAL:
    torch.backends.cudnn.allow_tf32 = False
