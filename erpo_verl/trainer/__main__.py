"""``accelerate launch -m erpo_verl.trainer FILE.yaml key=value ...``: the same as ``erpo train``."""

import argparse

from erpo_verl.trainer.run import add_arguments, run

parser = argparse.ArgumentParser(prog="erpo_verl.trainer", description=__doc__)
add_arguments(parser)
raise SystemExit(run(parser.parse_args()))
