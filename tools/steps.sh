# SPDX-License-Identifier: GPL-2.0
#
# The steps of the build environment: for each, build_STEP (the recipe, run with the directory to fill as its argument), and
# inputs_STEP (what else the result depends on). Sourced by tools/env and tools/vm.

# need_host: what the recipes need of the machine itself.
need_host() {
    [ -z "${KERNEL_TARBALL:-}" ] || [ -r "$KERNEL_TARBALL" ] || die "KERNEL_TARBALL: cannot read $KERNEL_TARBALL"
    [ "$(id -u)" = 0 ] || die "this must run as root (it makes Debian trees and enters them)"
    local missing=() packages=() tool
    for tool in mmdebstrap:mmdebstrap unshare:util-linux setpriv:util-linux flock:util-linux xz:xz-utils gzip:gzip; do
        command -v "${tool%:*}" >/dev/null || { missing+=("${tool%:*}"); packages+=("${tool#*:}"); }
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing: ${missing[*]}" "Squall's build runs on Debian 12 and 13"
    say "installing by apt what this machine lacks: ${packages[*]}"
    mkdir -p "$CACHE/log"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"; } \
        >"$CACHE/log/host.log" 2>&1 ||
        die "could not install ${packages[*]}" "the whole log: $CACHE/log/host.log" "install them by hand and run this again"
}

# ensure STEP: builds STEP and what it rests on, unless complete.
ensure() {
    case $1 in
    toolchain) step 1/6 toolchain "toolchain (Debian $SUITE, rustc $RUSTC_VERSION)" ;;
    source) ensure toolchain; step 2/6 source "kernel source $KERNEL_SERIES" ;;
    stock) ensure source; step 3/6 stock "stock kernel $KERNEL_RELEASE and its build tree" ;;
    image) ensure stock; step 4/6 image "guest image" ;;
    debug) ensure source; step 5/6 debug "debug kernel (up to half an hour)" ;;
    *) die "no such step: $1" "steps: toolchain source stock image debug" ;;
    esac
}

inputs_toolchain() { packages "$TOOLS/packages.toolchain"; echo "$SUITE $ARCH $RUSTC_VERSION $BINDGEN_VERSION"; }

build_toolchain() {
    local version
    debootstrap "$TOOLS/packages.toolchain" "$1/root"
    ln -sf clang-19 "$1/root/usr/bin/clang"
    version=$(chroot "$1/root" rustc --version | cut -d' ' -f2)
    [ "$version" = "$RUSTC_VERSION" ] || {
        echo "The stock kernel was built with rustc $RUSTC_VERSION, the archive has $version: a module would not load."
        return 1
    }
    version=$(chroot "$1/root" bindgen --version | cut -d' ' -f2)
    [ "$version" = "$BINDGEN_VERSION" ] || echo "squall-note: bindgen is $version, pinned is $BINDGEN_VERSION"
}

# newest PACKAGE: the newest version of PACKAGE that the archive has.
newest() { chroot "$(dir_of toolchain)/root" apt-cache madison "$1" | awk 'NR == 1 { print $3 }'; }

# fetch DIR VERSION PACKAGE…: downloads VERSION of the packages and unpacks them all into DIR.
fetch() {
    local dir=$1 version=$2 package
    shift 2
    mkdir -p "$dir"
    for package; do
        # shellcheck disable=SC2016  # expanded by the inner shell
        inside sh -c 'cd "$1" && apt-get download -q -o APT::Sandbox::User=root "$2"' sh "$dir" "$package=$version"
        dpkg-deb -x "$dir/${package}_"*.deb "$dir"
        rm "$dir/${package}_"*.deb
    done
}

# The source step decides which version of the kernel everything else takes, and leaves it in the file `version`.
inputs_source() {
    echo "$KERNEL_VERSION"
    if [ -n "${KERNEL_TARBALL:-}" ]; then sha256sum <"$KERNEL_TARBALL"; fi
}

build_source() {
    local tarball=${KERNEL_TARBALL:-} version=$KERNEL_VERSION
    if [ -z "$tarball" ]; then
        chroot "$(dir_of toolchain)/root" apt-get update -qq
        if ! fetch "$1/deb" "$version" "linux-source-$KERNEL_SERIES"; then
            version=$(newest "linux-source-$KERNEL_SERIES")
            [ -n "$version" ]
            echo "squall-note: Debian's kernel $KERNEL_VERSION is gone from the archive, taking $version"
            fetch "$1/deb" "$version" "linux-source-$KERNEL_SERIES"
        fi
        tarball=$1/deb/usr/src/linux-source-$KERNEL_SERIES.tar.xz
    fi
    mkdir "$1/linux"
    tar -x -f "$tarball" -C "$1/linux" --strip-components=1
    rm -rf "$1/deb"
    echo "$version" >"$1/version"
}

inputs_stock() { echo "$(key_of source) $KERNEL_RELEASE $GCC $RUSTC_VERSION"; }

# Debian's headers package lacks the metadata of the kernel's Rust crates, so the tree for modules is made from the source with
# Debian's configuration, symbol versions and release name; the Rust symbols come out with the names Debian's vmlinux exports.
build_stock() {
    local source version release suffix
    source=$(dir_of source)
    version=$(cat "$source/version")
    suffix=${KERNEL_RELEASE#"${KERNEL_VERSION%%-*}"}
    release=${version%%-*}$suffix
    fetch "$1/deb" "$version" "linux-headers-$release" "linux-base-$release" "linux-binary-$release" "linux-modules-$release"
    cp "$1/deb/usr/lib/modules/$release/vmlinuz" "$1/vmlinuz"
    mkdir -p "$1/modules/lib"
    mv "$1/deb/usr/lib/modules" "$1/modules/lib/modules"
    rm -f "$1/modules/lib/modules/$release"/{build,source,vmlinuz}
    inside depmod -b "$1/modules" "$release"
    mkdir "$1/build"
    cp "$1/deb/usr/src/linux-headers-$release"/{.config,Module.symvers} "$1/build/"
    echo "$suffix" >"$1/build/localversion"
    rm -rf "$1/deb"
    inside make -C "$source/linux" O="$1/build" CC="x86_64-linux-gnu-$GCC" LOCALVERSION= olddefconfig
    inside make -C "$source/linux" O="$1/build" CC="x86_64-linux-gnu-$GCC" LOCALVERSION= -j"$(nproc)" modules_prepare
    [ "$(cat "$1/build/include/config/kernel.release")" = "$release" ]
    grep -q '^CONFIG_RUST=y' "$1/build/.config"
    echo "$release" >"$1/release"
}

inputs_image() {
    key_of stock
    packages "$TOOLS/packages.guest"
    cat "$TOOLS/guest/initramfs"
}

# The guest: a root image, opened read-only by every VM, and an initramfs that finds and mounts it under either kernel.
build_image() {
    local stock release module
    stock=$(dir_of stock)
    release=$(cat "$stock/release")
    debootstrap "$TOOLS/packages.guest" "$1/root"
    rm -rf "$1/root"/var/cache/apt/*.bin "$1/root"/var/lib/apt/lists/* "$1/root/boot"
    mkdir -p "$1/root/usr/lib/modules"
    cp -a "$stock/modules/lib/modules/$release" "$1/root/usr/lib/modules/"
    echo squall >"$1/root/etc/hostname"
    printf '127.0.0.1 localhost squall\n::1 localhost\n' >"$1/root/etc/hosts"
    mkdir -p "$1/root/squall"
    truncate -s 6G "$1/root.img"
    inside mke2fs -q -t ext4 -L squall -m 0 -E lazy_itable_init=0,root_owner=0:0 -O ^has_journal -d "$1/root" "$1/root.img"
    rm -rf --one-file-system "$1/root"

    mkdir -p "$1/initramfs"/{bin,dev,proc,sys,root,lib}
    cp "$(dir_of toolchain)/root/usr/bin/busybox" "$1/initramfs/bin/busybox"
    cp "$TOOLS/guest/initramfs" "$1/initramfs/init"
    chmod 755 "$1/initramfs/init"
    for module in virtio_pci virtio_blk ext4; do
        inside modprobe -d "$stock/modules" -S "$release" --show-depends "$module"
    done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r module; do
        mkdir -p "$1/initramfs/${module#"$stock/modules/"}"
        rmdir "$1/initramfs/${module#"$stock/modules/"}"
        cp "$module" "$1/initramfs/${module#"$stock/modules/"}"
    done
    mkdir -p "$1/initramfs/lib/modules/$release"
    cp "$stock/modules/lib/modules/$release"/modules.{builtin,order} "$1/initramfs/lib/modules/$release/"
    inside depmod -b "$1/initramfs" "$release"
    (cd "$1/initramfs" && find . -print0 | inside cpio -0 -o -H newc --quiet) | gzip -1 >"$1/initrd"
    rm -rf --one-file-system "$1/initramfs"
}

# Where the compiler puts KASAN's checks: into what Squall hands memory to and what works on that (besides the module itself). What is
# allocated and freed is watched everywhere. What the checkers do at every allocation and lock is not checked itself.
checked=(net net/% lib lib/% rust rust/% kernel kernel/time kernel/rcu kernel/locking fs/configfs)
unchecked=(stacktrace extable debugobjects)

inputs_debug() {
    echo "$(key_of source) $RUSTC_VERSION $LLVM_VERSION ${checked[*]} ${unchecked[*]}"
    packages "$TOOLS/debug.config"
}

# The debug kernel, from the same source: small, everything built in, every checker on.
build_debug() {
    local source make name wanted missing=0
    source=$(dir_of source)
    make=(make -C "$source/linux" O="$1/build" LLVM="-$LLVM_VERSION" LOCALVERSION=-squall-debug)
    # Expanded by Kbuild for each directory.
    make+=("KASAN_SANITIZE=\$(if \$(filter ${checked[*]},\$(obj)),y,n)")
    for name in "${unchecked[@]}"; do make+=("KASAN_SANITIZE_$name.o=n"); done
    inside "${make[@]}" tinyconfig
    inside "$source/linux/scripts/kconfig/merge_config.sh" -m -O "$1/build" "$1/build/.config" "$TOOLS/debug.config"
    inside "${make[@]}" olddefconfig
    while read -r wanted; do
        case $wanted in
        CONFIG_*) grep -qxF "$wanted" "$1/build/.config" || { echo "not in the configuration: $wanted"; missing=1; } ;;
        esac
    done <"$TOOLS/debug.config"
    [ $missing = 0 ]
    inside nice -n 10 "${make[@]}" -j"$(nproc)" bzImage modules_prepare
    cp "$1/build/arch/x86/boot/bzImage" "$1/vmlinuz"
    cp "$1/build/include/config/kernel.release" "$1/release"
    # Modules are checked against the symbols of vmlinux.
    [ -s "$1/build/Module.symvers" ] || cp "$1/build/vmlinux.symvers" "$1/build/Module.symvers"
    find "$1/build" -name '*.o' -not -path '*/scripts/*' -not -path '*/tools/*' -delete
    rm -f "$1/build"/vmlinux.a "$1/build"/.tmp_*
}

# kbuild KERNEL OUT TARGET…: what Kbuild makes for the kernel in the directory OUT.
kbuild() {
    local kernel=$1 out=$2 cc
    shift 2
    case $kernel in
    stock) cc=CC=x86_64-linux-gnu-$GCC ;;
    debug) cc=LLVM=-$LLVM_VERSION ;;
    *) die "no such kernel: $kernel" "kernels: stock debug" ;;
    esac
    ensure "$kernel"
    mkdir -p "$out"
    exec 8>"$out/.lock"
    flock 8
    # Make's own chatter is left out; what compilers say passes through.
    if ! inside make -s -C "$(dir_of "$kernel")/build" M="$TOP" MO="$out" "$cc" -j"$(nproc)" "$@" 8>&- 2>&1 |
        { grep -v '^Skipping BTF generation' >&2 || true; }; then
        die "the module does not compile for the $kernel kernel"
    fi
    exec 8>&-
}

# module KERNEL: builds the module for the kernel into build/KERNEL of the checkout.
module() {
    local start=$SECONDS
    kbuild "$1" "$TOP/build/$1" modules
    say "[6/6] module for the $1 kernel … $((SECONDS - start)) s: build/$1/squall.ko"
}

# user_programs: builds the programs for users of the module into build/user of the checkout.
user_programs() {
    local start=$SECONDS
    command -v cargo >/dev/null || ensure toolchain
    in_cargo build --quiet --release --locked --manifest-path "$TOP/user/Cargo.toml"
    mkdir -p "$TOP/build/user"
    cp "$TOP/build/cargo/release/squall-log" "$TOP/build/user/"
    say "the log's reader … $((SECONDS - start)) s: build/user/squall-log"
}
