#!/bin/sh
# Make an emulated Python for aarch64: scripts/arm.sh build/arm .venv-device/bin/python
#
# Afterwards build/arm/python runs Debian 13's Python with the packages of requirements-arm.lock, on
# any Debian or Ubuntu on x86-64. Nothing is installed in the system and no root is needed: Debian's
# packages, checked by apt against Debian's keys, are only unpacked below the folder. The emulator is
# Debian 13's, too: qemu 7.2 of Debian 12 crashes.
set -eu
folder=$1
python=$2
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keys=/usr/share/keyrings/debian-archive-keyring.gpg

for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || { echo "make arm needs $tool, of Debian or Ubuntu" >&2; exit 1; }
done
[ -f $keys ] || { echo "make arm needs the package debian-archive-keyring" >&2; exit 1; }

# unpack ARCHITECTURE FOLDER PACKAGE...: packages with all that they depend on.
unpack() {
    state=$2-apt
    rm -rf "$2" "$state"
    mkdir -p "$2" "$state/lists/partial" "$state/archives/partial"
    echo "deb [signed-by=$keys] $mirror trixie main" >"$state/sources.list"
    : >"$state/status" # nothing is installed
    apt="apt-get --quiet=2 -o Dir::State=$state -o Dir::State::status=$state/status
        -o Dir::State::Lists=$state/lists -o Dir::Cache=$state -o Dir::Cache::Archives=$state/archives
        -o Dir::Etc::SourceList=$state/sources.list -o Dir::Etc::SourceParts=/dev/null
        -o APT::Architecture=$1 -o APT::Architectures=$1 -o APT::Install-Recommends=false
        -o Acquire::Languages=none -o Debug::NoLocking=true"
    [ "$(id -u)" != 0 ] || apt="$apt -o APT::Sandbox::User=root"
    target=$2
    shift 2
    $apt update
    $apt install --yes --download-only "$@" >/dev/null
    for package in "$state"/archives/*.deb; do
        dpkg-deb --extract "$package" "$target"
    done
    rm -rf "$state"
}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
unpack amd64 "$folder/emulator" qemu-user
unpack arm64 "$folder/root" python3 libstdc++6
ln -sfn usr/lib "$folder/root/lib" # base-files has it, which is not needed otherwise

rm -rf "$folder/packages"
"$python" -m pip install --quiet --require-hashes --requirement requirements-arm.lock \
    --target "$folder/packages" --only-binary=:all: --python-version 3.13 \
    --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_28_aarch64

cat >"$folder/python" <<END
#!/bin/sh
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD:$folder/packages exec \\
    $folder/emulator/usr/bin/qemu-aarch64 -L $folder/root $folder/root/usr/bin/python3.13 "\$@"
END
chmod +x "$folder/python"
