"""Methods of token-level credit inside verl, without a fork: an advantage estimator a method, and the policy loss ``erpo``.

verl loads ``entry`` (entry point group ``verl.plugins``) whenever it is imported, in the driver and in every Ray worker, and
``entry`` only plants post-import hooks, so that ``import verl`` stays as light as it was. From there:

- ``checks``     refuses settings that cannot work, before anything heavy is loaded
- ``context``    carries a batch's entropies, step, metrics and a method's memory from the trainer to the estimator
- ``estimator``  the advantage estimators: verl's batch in, a method's credit out
- ``loss``       the policy loss
- ``hooks``      the places of verl that are wrapped, one function a place
- ``contract``   every symbol of verl that this folder relies on, checked by a test and by ``erpo doctor``
"""

from __future__ import annotations

import os
import sys

TESTED_VERL = ("0.9.1",)
"""Releases of verl that this plug-in was run with. Others are announced on stderr, not refused."""

_ANNOUNCED = "ERPO_VERL_ANNOUNCED"


def announce(message: str) -> None:
    """Say something on stderr in one line, once a run: verl itself logs what goes wrong in a plug-in at DEBUG only.

    The dozens of Ray workers of a run inherit the environment variable and keep silent.
    """
    said = os.environ.get(_ANNOUNCED, "")
    if message not in said:
        os.environ[_ANNOUNCED] = said + message
        print(f"erpo-verl: {message}", file=sys.stderr, flush=True)
