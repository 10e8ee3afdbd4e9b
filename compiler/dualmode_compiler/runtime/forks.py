"""What forks wait for."""

from __future__ import annotations

import threading

making = threading.RLock()
"""Held while code that eager operations need is made or loaded, with all that is imported for that.
A child of another thread's fork could not go on with it: it would wait for ever for what that
thread holds, such as the locks of modules that are half imported."""
