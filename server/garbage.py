"""How often a command looks for garbage."""

import atexit
import gc


def seldom() -> None:
    """Look seldom: what is imported stays, and to look for garbage in it takes long."""
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)  # … and once more at the interpreter's end
