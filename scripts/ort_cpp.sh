#!/bin/sh
# What the C++ runtime is built with: scripts/ort_cpp.sh PYTHON build/ort
#
# Makes build/ort/include, ONNX Runtime's headers, and build/ort/lib, the library in PYTHON's package
# onnxruntime. The headers are those of $ORT_INCLUDE, of an installed libonnxruntime-dev, or of that
# package of Debian 13, which is unpacked here and not installed. Without them, or without CMake and a
# compiler, the last line says why, and the exit status is 1.
set -eu
python=$1
folder=$2

fail() {
    echo "C++: not tested: $*"
    exit 1
}

for tool in cmake "${CXX:-c++}"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# The headers of Debian 13, from where this machine gets its Debian packages.
unpack() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    from=$(apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' | grep '/debian/*$' |
        head -n 1)
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -n "$from" ] && [ -f $keys ] || return 1
    apt=$(mktemp -d)
    trap 'rm -rf "$apt"' EXIT
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    echo "deb [signed-by=$keys] $from trixie main" >"$apt/sources.list"
    (
        cd "$apt"
        set -- -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- \
            -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Acquire::Languages=none \
            -o APT::Sandbox::User=root -o Acquire::Retries=1
        apt-get "$@" update && apt-get "$@" download libonnxruntime-dev &&
            dpkg-deb --extract libonnxruntime-dev_*.deb files
    ) >"$folder/apt.log" 2>&1 || return 1
    mkdir -p "$folder/include"
    cp "$apt"/files/usr/include/onnxruntime/*.h "$folder/include"
}

mkdir -p "$folder"
header=onnxruntime_cxx_api.h
if [ ! -f "$folder/include/$header" ]; then
    for place in "${ORT_INCLUDE:-}" /usr/include/onnxruntime /usr/local/include/onnxruntime; do
        [ -f "$place/$header" ] && mkdir -p "$folder/include" &&
            cp "$place"/*.h "$folder/include" && break
    done
fi
[ -f "$folder/include/$header" ] || unpack ||
    fail "ONNX Runtime's headers are not here, and Debian 13's libonnxruntime-dev cannot be had" \
        "(see CONTRIBUTING.md; run make cpp ORT_INCLUDE=/folder/of/$header)"

# The loader looks for the library by this name.
library=$("$python" -c "import importlib.util as u, pathlib as p
print(next(p.Path(u.find_spec('onnxruntime').origin).parent.glob('capi/libonnxruntime.so.*')))") ||
    fail "PYTHON's package onnxruntime has no libonnxruntime.so"
mkdir -p "$folder/lib"
for name in libonnxruntime.so libonnxruntime.so.1; do
    ln -sf "$library" "$folder/lib/$name"
done
