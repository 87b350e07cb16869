"""``torchrun --nproc_per_node 2 -m erpo_verl.trainer FILE.yaml key=value ...``: the same as ``erpo train``."""

import argparse
import atexit
import os
import sys

from erpo_verl.trainer.run import add_arguments, run

parser = argparse.ArgumentParser(prog="erpo_verl.trainer", description=__doc__)
add_arguments(parser)
code = run(parser.parse_args())
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # Seen with gloo: a thread of a process group that is still referenced aborts (SIGABRT) while the interpreter is taken down, and
    # torchrun reports a finished run as failed. So everything registered to be tidied up is, and the process ends here.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
raise SystemExit(code)
