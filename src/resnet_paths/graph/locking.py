"""The process-wide lock around what PyTorch has only once per process, and around changes to a shared model.

It is held while a model is traced, exported or compiled (all three use ``torch.fx``, which replaces methods of
``nn.Module`` for all threads and follows one model at a time), while forward-mode derivatives are taken (their level is
shared by all threads), while global switches of PyTorch or the global random generators are set temporarily, and while
a model is being restored (see `preserve.py`). Plain evaluation never takes it. A thread that holds it must not wait for
another thread that may want it.
"""

from __future__ import annotations

import os
import threading

MODEL_LOCK = threading.RLock()
"""Re-entrant: a thread that holds it may take it again."""

GENERATOR_LOCK = threading.Lock()
"""Held briefly, while a thread registers that it preserves the global random generators (see `preserve.py`)."""

# A process forked in the middle of a change would start with half of it, and with a lock that nobody releases. The lock
# registered last is acquired first, which is the order used by `preserved`; the other order could deadlock.
for _lock in (GENERATOR_LOCK, MODEL_LOCK):
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_lock._at_fork_reinit,  # type: ignore[union-attr]
    )
