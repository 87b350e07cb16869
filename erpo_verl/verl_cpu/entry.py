"""Entry point (group ``verl.plugins``): loaded by ``import verl`` in every process, acts only if ``ERPO_VERL_CPU=1``."""

from __future__ import annotations

from erpo_verl.verl_cpu import enabled

if enabled():
    import sys

    try:
        from erpo_verl.verl_cpu import patches, platform

        platform.activate()
        patches.activate()
    except Exception as error:
        # verl logs a plug-in's failure at DEBUG only; a run would then die much later, asking for CUDA.
        print(f"erpo-verl: verl on the CPU could not be set up: {type(error).__name__}: {error}", file=sys.stderr)
        raise
