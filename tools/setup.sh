#!/usr/bin/env bash
# Makes .venv with everything that raycondense needs, on Debian 12 or newer and Ubuntu with Python 3.11 to 3.13.
# `make setup` runs it, and so do `make demo`, `make test` and `make lint`. When nothing has changed since the last run it
# ends at once.
#
# Variables (all optional):
#   PYTHON=python3.12    the Python to use; otherwise .venv's own, python3 or the newest fitting python3.x
#   VENV=.venv           the folder of the virtual environment
#   EXTRAS=dev,hub       extras of the project to install beside ffcv
#   CONSTRAINTS=FILE     exact versions (constraints.txt); "none" lets pip choose within pyproject.toml's ranges
#   REQUIRE_FFCV=1       fail where FFCV cannot be installed, instead of going on with the resident loader
#   APT=no               never call apt-get, only say which packages are missing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly OLDEST_MINOR=11 NEWEST_MINOR=13
readonly NEEDED_GIB=8
venv=${VENV:-.venv}
extras=${EXTRAS:-dev,hub}
constraints=${CONSTRAINTS:-constraints.txt}
require_ffcv=${REQUIRE_FFCV:-0}
stamp=$venv/.raycondense-setup

say() { printf 'setup: %s\n' "$*"; }
warn() { printf 'setup: WARNING: %s\n' "$*" >&2; }
die() {
    printf 'setup: ERROR: %s\n' "$1" >&2
    shift
    if (($#)); then printf 'setup:   %s\n' "$@" >&2; fi
    exit 1
}

# --- Python -----------------------------------------------------------------------------------------------------------

# Prints "3.11.7", or nothing where $1 is no Python that runs (a broken link, a pyenv shim without a version).
python_version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || true; }

version_fits() {
    local minor
    [[ $1 == 3.* ]] || return 1
    minor=${1#3.}
    minor=${minor%%.*}
    ((minor >= OLDEST_MINOR && minor <= NEWEST_MINOR))
}

# Sets `python` to the interpreter that .venv is made from, or is already made from.
find_python() {
    local candidate version found=()
    if [[ -n ${PYTHON:-} ]]; then
        version=$(python_version "$PYTHON")
        [[ -n $version ]] || die "PYTHON=$PYTHON is no Python that runs"
        version_fits "$version" ||
            die "PYTHON=$PYTHON is Python $version; valid: 3.$OLDEST_MINOR to 3.$NEWEST_MINOR"
        python=$PYTHON
        return
    fi
    for candidate in "$venv/bin/python" python3 python3.13 python3.12 python3.11 python; do
        version=$(python_version "$candidate")
        [[ -n $version ]] || continue
        if version_fits "$version"; then
            python=$candidate
            return
        fi
        found+=("$candidate is $version")
    done
    local list
    list=$(printf '%s, ' "${found[@]:-none}")
    die "no Python 3.$OLDEST_MINOR to 3.$NEWEST_MINOR found (found: ${list%, })" \
        "install one, e.g. 'sudo apt-get install python3.12 python3.12-venv python3.12-dev'," \
        "or name one: make demo PYTHON=/path/to/python3.12"
}

# --- System packages --------------------------------------------------------------------------------------------------

have_header() { [[ -n $(compgen -G "/usr/include/$1") || -n $(compgen -G "/usr/include/*-linux-gnu*/$1") ]]; }
have_library() { PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -F "$1" >/dev/null; }

# Prints the Debian packages that FFCV lacks, in one line. It looks for what the packages bring rather than for their
# names, which differ between releases (libglib2.0-0 is libglib2.0-0t64 in newer ones).
missing_ffcv_packages() {
    local missing=() header
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [[ -e $header ]] || missing+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-dev")
    command -v g++ >/dev/null || missing+=(g++)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    have_header opencv4/opencv2/core.hpp || missing+=(libopencv-core-dev)
    have_header opencv4/opencv2/imgproc.hpp || missing+=(libopencv-imgproc-dev)
    have_header turbojpeg.h || missing+=(libturbojpeg0-dev)
    have_library libGL.so.1 || missing+=(libgl1)
    have_library libgthread-2.0.so.0 || missing+=(libglib2.0-0)
    printf '%s' "${missing[*]-}"
}

# Installs Debian packages; fails, saying why, where it may not or cannot.
apt_install() {
    local as_root=()
    if [[ ${APT:-yes} == no ]]; then
        warn "not installing $* (APT=no)"
        return 1
    fi
    if ! command -v apt-get >/dev/null; then
        warn "not installing $*: there is no apt-get here; install the same libraries with this system's package manager"
        return 1
    fi
    if ((EUID != 0)); then
        if ! sudo -n true 2>/dev/null; then
            warn "not installing $*: that needs root, or a sudo without a password. Run:" \
                "sudo apt-get install --no-install-recommends $*"
            return 1
        fi
        as_root=(sudo -n)
    fi
    say "installing system packages: $*"
    local output
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    if [[ -z ${apt_updated:-} ]]; then
        apt_updated=yes
        # One unreachable source of several must not stop what the others can give.
        output=$("${apt[@]}" update </dev/null 2>&1) || warn "apt-get update: ${output:-failed}"
    fi
    output=$("${apt[@]}" install -y --no-install-recommends "$@" </dev/null 2>&1) || {
        warn "apt-get could not install $*; it said:" $'\n'"$output"
        return 1
    }
}

# --- The environment --------------------------------------------------------------------------------------------------

# What the installation depends on; the folder is part of it because virtual environments cannot be moved.
fingerprint() {
    {
        cat pyproject.toml tools/setup.sh tools/ffcv-pkgconfig/opencv4.pc
        if [[ $constraints != none ]]; then cat "$constraints"; fi
        printf '%s\n' "$PWD" "$extras" "$constraints" "$(python_version "$python")"
    } | sha256sum | cut -d' ' -f1
}

# True where the last run did all that this one would do. A setup without FFCV stands until its packages change.
up_to_date() {
    [[ -f $stamp && -x $venv/bin/python ]] || return 1
    local key ffcv
    { read -r key && read -r ffcv; } <"$stamp" || return 1
    [[ $key == "$(fingerprint)" ]] || return 1
    [[ $ffcv == installed ]] && return 0
    [[ $require_ffcv != 1 && $ffcv == "missing:$(missing_ffcv_packages)" ]] || return 1
    say_no_ffcv
}

say_no_ffcv() {
    warn "no FFCV here: raycondense uses its resident loader, which keeps the whole dataset in memory." \
        "How to mend it: docs/install.md"
}

make_venv() {
    local wanted
    wanted=$(python_version "$python")
    if [[ $(python_version "$venv/bin/python") == "$wanted" ]] && "$venv/bin/python" -m pip --version &>/dev/null; then
        return
    fi
    if [[ $python == "$venv/bin/python" ]]; then
        # Its pip is broken: the Python that it was made from makes it anew.
        python=$("$python" -c 'import sys; print(sys._base_executable)')
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        local package
        package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
        apt_install "$package" ||
            die "$python cannot make virtual environments: the package $package is missing"
    fi
    say "making $venv with Python $wanted"
    "$python" -m venv --clear "$venv"
}

pip_install() {
    local options=(--disable-pip-version-check --no-input)
    # Progress bars for people; in a log errors alone.
    if [[ ! -t 1 ]]; then options+=(--quiet --quiet); fi
    if [[ $constraints != none ]]; then options+=(--constraint "$constraints"); fi
    # The variable rather than the option: pip releases that know one way only ignore it.
    PIP_USE_PEP517=1 "$venv/bin/python" -m pip install "${options[@]}" "$@" </dev/null
}

# Builds FFCV. Never from pip's cache: the wheel is linked to the OpenCV of the release it was built on.
install_ffcv() {
    local missing
    missing=$(missing_ffcv_packages)
    # shellcheck disable=SC2086  # a list of package names
    if [[ -n $missing ]] && ! apt_install $missing; then return 1; fi
    say "building FFCV"
    local shim=$PWD/tools/ffcv-pkgconfig
    PKG_CONFIG_PATH=$shim${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH} pip_install --no-cache-dir --no-deps ffcv==1.0.2 &&
        pip_install --editable '.[ffcv]' &&
        "$venv/bin/python" -c 'import ffcv'
}

# --- What happens -----------------------------------------------------------------------------------------------------

find_python
if up_to_date; then exit 0; fi

free_gib=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1048576))
if ((free_gib < NEEDED_GIB)) && [[ ! -d $venv/lib ]]; then
    warn "$free_gib GiB free here; PyTorch with CUDA and its packages need about $NEEDED_GIB GiB"
fi

make_venv
rm -f "$stamp"
say "installing raycondense with PyTorch, Ray and tools (a download of about 3 GB the first time)"
pip_install --editable ".[$extras]" || die "pip could not install raycondense; its own message is above"

if install_ffcv; then
    ffcv=installed
elif [[ $require_ffcv == 1 ]]; then
    die "FFCV could not be installed, and REQUIRE_FFCV=1 asks for it" "docs/install.md says what it needs"
else
    ffcv="missing:$(missing_ffcv_packages)"
    say_no_ffcv
fi

printf '%s\n%s\n' "$(fingerprint)" "$ffcv" >"$stamp.new"
mv "$stamp.new" "$stamp"
say "ready: $venv, Python $(python_version "$venv/bin/python"), FFCV $ffcv"
