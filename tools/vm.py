# SPDX-License-Identifier: GPL-2.0
"""The machine of one tools/vm run: starts QEMU inside the toolchain tree, passes the command's output through, judges the kernel's
log, and exits with the command's status (or 99, 124, 125; see tools/vm)."""

import argparse
import os
import re
import subprocess
import sys
import threading
import time

STATUS_LOG = 99
STATUS_TIMEOUT = 124
STATUS_DEAD = 125

# Lines of level warning that say nothing about the module's behaviour.
BENIGN = [
    r"loading out-of-tree module taints kernel",
    r"module verification failed: signature and/or required key missing",
    # An emulated processor may be held up by its host for any time.
    r"hrtimer: interrupt took \d+ ns",
]

START = "squall: the command starts"
# An emulated machine may die while it boots: QEMU lets a processor see an instruction that the other one is in the middle of
# rewriting ("Oops: int3"). Nothing of the run has happened by then.
BOOTS = 3
CONSOLE_TAIL = 60  # lines shown of a guest that died
WARNING = 4  # numeric level; smaller is worse
SHOWN = 200  # lines shown of a log that fails the run


def parse_arguments():
    parser = argparse.ArgumentParser()
    for name in ("run", "kernel", "initrd", "image", "kvm-note", "flavour"):
        parser.add_argument("--" + name, required=True)
    for name in ("smp", "mem", "timeout"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--forward", action="append", default=[])
    parser.add_argument("--allow-log", action="append", default=[])
    parser.add_argument("--icount", action="store_true")
    parser.add_argument("--virtual-time", action="store_true")
    parser.add_argument("--kmemleak", action="store_true")
    return parser.parse_args()


def complain(text):
    print("squall: " + text, file=sys.stderr, flush=True)


def kvm_works(args):
    """Whether KVM boots this kernel here; found out once per boot of this machine, since a /dev/kvm that exists may not work."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    if os.path.exists(args.kvm_note):
        with open(args.kvm_note, encoding="ascii") as note:
            return note.read() == "yes"
    # Without a root device the kernel panics, which under KVM takes a few seconds.
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-reboot"]
    command += ["-display", "none", "-serial", "stdio", "-kernel", args.kernel, "-append", "console=ttyS0 panic=-1"]
    try:
        probe = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
        works = b"Kernel panic" in probe.stdout
    except subprocess.TimeoutExpired:
        works = False
    with open(args.kvm_note + ".new", "w", encoding="ascii") as note:
        note.write("yes" if works else "no")
    os.rename(args.kvm_note + ".new", args.kvm_note)
    return works


def qemu_command(args, out_fd, err_fd):
    append = ["console=ttyS0", "loglevel=7", "panic=-1", "oops=panic", "log_buf_len=16M", "random.trust_cpu=on", "tsc=nowatchdog"]
    # There is one serial port: to look for others takes time at each boot.
    append.append("8250.nr_uarts=1")
    # Keeping track of each block of memory makes allocations several times as slow.
    append += ["squall." + args.flavour, "squall.kmemleak" if args.kmemleak else "kmemleak=off"]
    if args.icount:
        machine = ["-accel", "tcg", "-cpu", "max", "-smp", "1", "-icount", "shift=1,sleep=off"]
    elif kvm_works(args):
        machine = ["-accel", "kvm", "-cpu", "host", "-smp", str(args.smp)]
    else:
        # With page tables of four levels instead of five a TLB miss costs less. Without fast string instructions loops take their
        # place, which are faster here.
        machine = ["-cpu", "max,la57=off,erms=off,fsrm=off,fsrs=off,fzrm=off", "-smp", str(args.smp)]
        if args.virtual_time:
            machine += ["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"]
        else:
            machine += ["-accel", "tcg,thread=multi"]
    forwards = "".join(",hostfwd=tcp:127.0.0.1:{}-:{}".format(*forward.split(":")) for forward in args.forward)
    return [
        "qemu-system-x86_64", "-machine", "pc", *machine, "-m", str(args.mem), "-nodefaults", "-no-reboot", "-display", "none",
        "-kernel", args.kernel, "-initrd", args.initrd, "-append", " ".join(append),
        "-chardev", f"file,id=console,path={args.run}/console.log", "-serial", "chardev:console",
        "-drive", f"if=none,id=root,file={args.image},format=raw,snapshot=on,cache=unsafe",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=files,file={args.run}/files.tar,format=raw,readonly=on",
        "-device", "virtio-blk-pci,drive=files",
        "-netdev", "user,id=net,restrict=on,ipv6=off" + forwards, "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        "-chardev", f"file,id=out,path=/dev/fd/{out_fd},append=on", "-device", "virtserialport,chardev=out,name=out",
        "-chardev", f"file,id=err,path=/dev/fd/{err_fd},append=on", "-device", "virtserialport,chardev=err,name=err",
        "-chardev", f"file,id=control,path={args.run}/control", "-device", "virtserialport,chardev=control,name=control",
    ]  # fmt: skip


def pump(source, target):
    """Copies what arrives from `source` to `target` until the end; goes on reading when nobody takes it any more."""
    while data := os.read(source, 65536):
        try:
            while target is not None and data:
                data = data[os.write(target, data) :]
        except OSError:
            target = None


def run_guest(args):
    """Runs the machine to its end; returns whether it ended by itself in time."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    deadline = time.monotonic() + args.timeout
    with open(f"{args.run}/qemu.log", "wb") as log:
        process = subprocess.Popen(
            qemu_command(args, out_write, err_write), stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(out_write, err_write)
        )
    os.close(out_write)
    os.close(err_write)
    pumps = [threading.Thread(target=pump, args=pair, daemon=True) for pair in ((out_read, 1), (err_read, 2))]
    for thread in pumps:
        thread.start()
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
        ended = True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        ended = False
    for thread in pumps:
        thread.join(10)
    return ended


def run_booted(args):
    """As run_guest(), but starts the machine again when it has died before the command began."""
    for _ in range(BOOTS - 1):
        ended = run_guest(args)
        if not ended or read(f"{args.run}/control") or START in read(f"{args.run}/console.log"):
            return ended
        complain("the guest died while it booted, and is started again; the end of its console:")
        show_console(args)
    return run_guest(args)


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def bad_lines(log, allowed):
    """The lines of a raw kernel log, after the command's start, that are of level warning or worse and not allowed."""
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if START in line]
    bad = []
    level = 7
    for line in lines[starts[0] + 1 :] if starts else lines:
        # A line without a level continues the one before.
        if prefix := re.match(r"<(\d+)>", line):
            level = int(prefix.group(1)) & 7
        if level <= WARNING and not any(re.search(pattern, line) for pattern in allowed):
            bad.append(line)
    return bad


def show_console(args):
    console = read(f"{args.run}/console.log").splitlines()
    for line in console[-CONSOLE_TAIL:] or read(f"{args.run}/qemu.log").splitlines()[-CONSOLE_TAIL:]:
        print("  | " + line, file=sys.stderr)
    complain(f"the whole console: {args.run}/console.log")


def main():
    args = parse_arguments()
    ended = run_booted(args)
    control = read(f"{args.run}/control")
    report = re.match(r"status (\d+)\n(.*?)(?:--- kmemleak\n(.*))?\Z", control, re.DOTALL)
    if not report:
        if not ended:
            complain(f"the time is over ({args.timeout} s); the end of the guest's console:")
            show_console(args)
            return STATUS_TIMEOUT
        complain("the guest died before the command ended; the end of its console:")
        show_console(args)
        return STATUS_DEAD
    status, log, leaks = int(report.group(1)), report.group(2), report.group(3)
    bad = bad_lines(log, BENIGN + args.allow_log)
    if bad:
        complain("the kernel complained while the command ran:")
        for line in bad[:SHOWN]:
            print("  | " + line, file=sys.stderr)
    if leaks:
        complain("memory was leaked:")
        for line in leaks.splitlines()[:SHOWN]:
            print("  | " + line, file=sys.stderr)
    if bad or leaks:
        complain(f"the whole console: {args.run}/console.log")
        return status or STATUS_LOG
    return status


if __name__ == "__main__":
    sys.exit(main())
