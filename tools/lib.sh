# SPDX-License-Identifier: GPL-2.0
#
# What the scripts of tools/ share: where things are, how a step of the environment is built once and kept, and how a command
# runs inside the toolchain tree. Sourced by bash scripts; defines functions and variables only.

set -euo pipefail

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(dirname "$TOOLS")
CACHE=${SQUALL_CACHE:-$HOME/.cache/squall}

# shellcheck source=tools/versions
. "$TOOLS/versions"

say() { printf 'squall: %s\n' "$*" >&2; }

die() {
    printf 'squall: error: %s\n' "$1" >&2
    shift
    local line
    for line; do printf 'squall:   %s\n' "$line" >&2; done
    exit 1
}

# usage: the head of the script as its help.
usage() {
    sed -n '4,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# packages FILE: the package names of FILE, without comments.
packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1"; }

# key_of STEP: identifies what STEP is made of: its recipe (the shell function build_STEP) and what inputs_STEP prints.
key_of() { { declare -f "build_$1"; "inputs_$1"; } | sha256sum | cut -c1-12; }

# dir_of STEP: the directory STEP is, or will be, built in.
dir_of() {
    local var=DIR_$1
    [ -n "${!var:-}" ] || printf -v "$var" '%s' "$CACHE/$1-$(key_of "$1")"
    printf '%s\n' "${!var}"
}

# have STEP: whether STEP is complete. Kernel trees hold their own absolute path, so a step is built in place, and what marks it
# complete is a file that is written last; whatever lacks the file is wiped before it is built again.
have() { [ -e "$(dir_of "$1")/.complete" ]; }

# step NUMBER/TOTAL STEP TITLE: builds STEP unless it is complete. One builder at a time; everybody else waits for it.
step() {
    local position=$1 name=$2 title=$3 dir log start
    have "$name" && return
    dir=$(dir_of "$name")
    log=$CACHE/log/${dir##*/}.log
    mkdir -p "$CACHE/log"
    exec 9>"$CACHE/lock.$name"
    if ! flock -n 9; then
        say "[$position] $title: another process is building it, waiting"
        flock 9
    fi
    if ! have "$name"; then
        start=$SECONDS
        printf 'squall: [%s] %s … ' "$position" "$title" >&2
        rm -rf --one-file-system "$dir"
        mkdir -p "$dir"
        # A subshell under `set -e` of its own: the first command that fails ends the step.
        set +e
        (set -eEuo pipefail; exec 9>&-; "build_$name" "$dir") >"$log" 2>&1 </dev/null
        local status=$?
        set -e
        if [ $status -ne 0 ]; then
            printf 'failed after %d s\n' $((SECONDS - start)) >&2
            tail -n 20 "$log" | sed 's/^/  | /' >&2
            die "step \"$title\" failed (status $status)" "the whole log: $log" "$(hint_of "$name")"
        fi
        touch "$dir/.complete"
        printf '%d s\n' $((SECONDS - start)) >&2
        grep '^squall-note: ' "$log" | sed 's/^squall-note: /squall:   note: /' >&2 || true
    fi
    exec 9>&-
}

# hint_of STEP: what to try when STEP failed.
hint_of() {
    case $1 in
    source) echo "no copy of the source in the archive? give one: make KERNEL_TARBALL=/path/to/linux-source-$KERNEL_SERIES.tar.xz" ;;
    toolchain | image) echo "is Debian's archive reachable, and is there room in $CACHE? another mirror: SQUALL_MIRROR=http://…/debian" ;;
    *) echo "run the same command again to retry; \`make distclean\` empties $CACHE" ;;
    esac
}

# inside COMMAND…: runs COMMAND in the toolchain tree, as root. The checkout and the cache are seen at their own paths; the working
# directory is kept when it lies in either of them. BIND may name more paths to be seen, one per line.
inside() {
    SQUALL_ROOT=$(dir_of toolchain)/root SQUALL_BIND="$TOP
$CACHE
${BIND:-}" SQUALL_CWD=$PWD "$TOOLS/inside" "$@"
}

# in_cargo ARGUMENT…: cargo, on rust/ unless told otherwise: the machine's own if it has one, else that of the toolchain tree. All
# packages are compiled into one directory, so what several of them use is compiled once.
in_cargo() {
    local -x CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$TOP/build/cargo}
    if command -v cargo >/dev/null; then
        (cd "$TOP/rust" && cargo "$@")
    else
        # The registry is reached over TLS: what this machine trusts is trusted in there.
        local trusted=/etc/ssl/certs/ca-certificates.crt
        [ -e $trusted ] || trusted=
        mkdir -p "$CACHE/cargo"
        (cd "$TOP/rust" && BIND=$trusted inside env CARGO_HOME="$CACHE/cargo" CARGO_TARGET_DIR="$CARGO_TARGET_DIR" cargo "$@")
    fi
}

# mirror: Debian's mirror as the host's own apt knows it, one-line or deb822 sources alike.
mirror() {
    if [ -n "${SQUALL_MIRROR:-}" ]; then
        printf '%s\n' "$SQUALL_MIRROR"
        return
    fi
    local codename uri
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # apt's own format
    uri=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v c="$codename" '$1 == c && $2 == "main" { print $3; exit }')
    [ -n "$uri" ] || die "no Debian mirror found in the apt sources of this machine" "name one: SQUALL_MIRROR=http://…/debian"
    printf '%s\n' "${uri%/}"
}

# debootstrap PACKAGES_FILE TARGET: a minimal SUITE tree with the packages of the file. SUITE-backports is known to its apt, but a
# package comes from there only if SUITE itself has none of that name.
debootstrap() {
    local uri include proxy
    uri=$(mirror)
    include=$(packages "$1" | paste -sd, -)
    proxy=$(apt-config shell proxy Acquire::http::Proxy | sed "s/^proxy='\(.*\)'$/\1/")
    mmdebstrap --variant=apt --architectures="$ARCH" --include="$include" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
        ${proxy:+--aptopt="Acquire::http::Proxy \"$proxy\""} \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt=force-unsafe-io \
        "$SUITE" "$2" \
        "deb $uri $SUITE main" "deb $uri $SUITE-updates main" "deb $uri $SUITE-backports main"
}
