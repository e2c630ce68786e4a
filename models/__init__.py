"""Learning: networks, their training and what stands around them.

Invariant: no library that they need tells anybody that it is used.
"""

import os

# ONNX Runtime reports to its vendor from the moment it is imported, unless it finds this
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
