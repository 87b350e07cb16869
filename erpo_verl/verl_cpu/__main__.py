"""Print verl's overrides for a machine without a GPU, one a line (for ``mapfile -t`` in shell scripts)."""

from erpo_verl.verl_cpu.overrides import as_arguments

print("\n".join(as_arguments()))
