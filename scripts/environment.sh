# Makes the virtual environment of the quickstart and the tests, or reuses it: `source scripts/environment.sh`.
# Needs Linux on x86-64 or arm64, and a Python 3.10 to 3.12. About 4 GB on disk.
#   PYTHON=/path/to/python   the interpreter to use
#   ERPO_VENV=/path          where the environment goes (default: .venv in the repository)

ERPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ERPO_VENV="${ERPO_VENV:-$ERPO_ROOT/.venv}"

erpo_find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3 python; do
        if [ -z "$candidate" ] || ! command -v "$candidate" >/dev/null 2>&1; then continue; fi
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "No Python 3.10 to 3.12 with the venv module was found; set PYTHON=/path/to/python." >&2
    return 1
}

erpo_install() {
    local pip=("$ERPO_VENV/bin/python" -m pip --disable-pip-version-check)
    "${pip[@]}" install --upgrade pip &&
        # PyTorch's CPU build: PyPI's own build for Linux would bring gigabytes of CUDA. Where the configured index has no
        # CPU build, PyTorch's index has.
        { "${pip[@]}" install "torch==2.13.0+cpu" ||
            "${pip[@]}" install "torch==2.13.0+cpu" --index-url https://download.pytorch.org/whl/cpu; } &&
        "${pip[@]}" install -c "$ERPO_ROOT/constraints.txt" -e "${ERPO_ROOT}[cpu,dev]" &&
        # vLLM asks for these; PyPI's builds do not match the CPU torch and break `import transformers`. Text needs none.
        "${pip[@]}" uninstall -y torchvision torchaudio torchcodec
}

erpo_make_environment() {
    local python stamp wanted
    python="$(erpo_find_python)" || return 1
    stamp="$ERPO_VENV/.erpo-installed"
    # The environment is as good as what it was made from: another lock or another checkout makes it anew.
    wanted="$({ "$python" -V; echo "$ERPO_ROOT"; cat "$ERPO_ROOT/pyproject.toml" "$ERPO_ROOT/constraints.txt" \
        "$ERPO_ROOT/scripts/environment.sh"; } | cksum)"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    echo "Making the environment in $ERPO_VENV with $("$python" -V) (some minutes the first time)"
    "$python" -m venv --clear "$ERPO_VENV" || return 1
    local log="$ERPO_VENV/install.log"
    if ! erpo_install > "$log" 2>&1; then
        grep -v "^WARNING" "$log" | tail -n 25 >&2
        echo "The installation failed; the whole log is $log" >&2
        return 1
    fi
    echo "$wanted" > "$stamp"
}

erpo_make_environment || return 1 2>/dev/null || exit 1
export PATH="$ERPO_VENV/bin:$PATH"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" TOKENIZERS_PARALLELISM=false WANDB_MODE="${WANDB_MODE:-offline}"
