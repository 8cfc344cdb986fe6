#!/bin/sh
# Install the locked packages: scripts/install.sh PYTHON requirements-dev
#
# Installs exactly the files of the lock. If the package index lacks torch's CPU build, as PyPI does,
# torch comes from PyTorch's own index, without a hash, and all else from the lock. If that index does
# not answer either, the requirements are installed without hashes, in whatever builds exist; on Linux,
# PyPI's torch brings gigabytes of CUDA. A file that differs from the locked one is an error.
set -eu
python=$1
name=$2
log=$(dirname "$python")/pip.log
torch_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

install() {
    "$python" -m pip install --quiet "$@"
}

if install --require-hashes --requirement "$name.lock" 2>"$log"; then
    exit
fi
cat "$log" >&2
grep --quiet "No matching distribution" "$log"

torch=$(grep '^torch==' "$name.txt" || true)
if [ -n "$torch" ]; then
    echo "installing $torch from PyTorch's index of CPU builds, without a hash"
    others=$(dirname "$python")/others.lock
    sed '/^torch==/,/--hash/d' "$name.lock" >"$others"
    if install --no-deps --timeout 10 --retries 1 --index-url "$torch_index" "$torch" 2>"$log" &&
        install --require-hashes --requirement "$others" 2>"$log"; then
        exit
    fi
    cat "$log" >&2
    grep --quiet "No matching distribution" "$log"
fi
echo "installing $name.txt instead, without hashes"
install --requirement "$name.txt"
