"""Keep ONNX Runtime to itself: import this before it.

From 1.29 on it tells its maker of the models that it loads, with an id of the device that it keeps
in the user's cache, unless this variable says otherwise when it is imported. Who sets it to 0 wants
that.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
