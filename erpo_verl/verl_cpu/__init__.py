"""verl without an accelerator: real Ray, real FSDP2, real vLLM, all on the CPU.

Nothing in this folder takes part in ERPO, and nothing in it acts unless ``ERPO_VERL_CPU=1`` is set (the quickstart and the
end-to-end tests set it): an installed erpo-verl never changes verl for somebody who did not ask. It exists so that the method can
be tried and tested on a laptop with the very engine that trains on a cluster; it is not a fast way to train.

- ``platform``      the ``cpu`` platform, through verl's own ``PlatformRegistry``
- ``patches``       the few places of verl that have no seam, each with what it mends and the version it was needed in
- ``vllm_plugin``   what vLLM on the CPU needs so that its weights can be updated (a ``vllm.general_plugins`` entry point)
- ``sampler``       verl's replay buffer, polled more often than every 2 seconds
- ``overrides``     the settings of verl that a run without a GPU needs, each with its reason
                    (``python -m erpo_verl.verl_cpu`` prints them, one a line, for shell scripts)
"""

from __future__ import annotations

import os

SWITCH = "ERPO_VERL_CPU"
"""The environment variable that switches this folder on. Ray's workers inherit it from the driver."""


def enabled() -> bool:
    """True if the user asked for verl on the CPU (``ERPO_VERL_CPU=1``)."""
    return os.environ.get(SWITCH, "") == "1"
