"""``make bench``: this project beside its peers, each part in one process."""

import os

# torch's profiler, by which memory is measured, else announces each start on the screen.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
