"""The lock of this process around what PyTorch has only once in a process, and around changes to a shared model.

Held while a model is traced (``torch.fx`` replaces methods of ``nn.Module`` for all threads), while forward-mode
derivatives are taken (their level is one for all threads), while global switches of PyTorch or the global random
generators are set for a while, and while a model is put back as it was (see `preserve.py`). Plain evaluation never
takes it. Whoever holds it must not wait for another thread that may want it.
"""

from __future__ import annotations

import os
import threading

MODEL_LOCK = threading.RLock()
"""Re-entrant: a thread that holds it may take it again."""

GENERATOR_LOCK = threading.Lock()
"""Held for moments, while it is noted who keeps the global random generators (see `preserve.py`)."""

# A process forked in the middle of a change would begin with half of it, and with a lock that nobody lets go. What is
# registered last is acquired first: in the order of `preserved`, or a fork and a look would wait for each other.
for _lock in (GENERATOR_LOCK, MODEL_LOCK):
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_lock._at_fork_reinit,  # type: ignore[union-attr]
    )
