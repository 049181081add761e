# SPDX-License-Identifier: GPL-2.0
"""As much of bpf(2) as it takes to have the kernel put accepted connections into a map of sockets, as accelerators of TCP do."""

import contextlib
import ctypes
import os
import struct

from . import ktap

SYS_BPF = 321  # x86-64
MAP_CREATE, MAP_GET_NEXT_KEY, PROG_LOAD, PROG_ATTACH, PROG_DETACH = 0, 4, 5, 8, 9
MAP_TYPE_SOCKHASH, PROG_TYPE_SOCK_OPS, CGROUP_SOCK_OPS = 18, 13, 3
PASSIVE_ESTABLISHED = 5
SOCK_HASH_UPDATE = 70
# Offsets in struct bpf_sock_ops.
OP, REMOTE_PORT = 0, 64
ROOT_CGROUP = "/sys/fs/cgroup"

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command, attributes):
    """One call; its result."""
    attributes = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = _libc.syscall(SYS_BPF, command, attributes, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _address(buffer):
    return ctypes.addressof(buffer)


def _program(fd):
    """Puts each socket that was accepted into the map, by its peer's port."""
    instruction = lambda code, dst=0, src=0, off=0, imm=0: struct.pack("<BBhi", code, src << 4 | dst, off, imm)
    return b"".join((
        instruction(0xBF, 6, 1),                        # r6 = the context
        instruction(0x61, 2, 6, OP),                    # r2 = what happened
        instruction(0x55, 2, 0, 9, PASSIVE_ESTABLISHED),  # anything else: to the end
        instruction(0x61, 3, 6, REMOTE_PORT),
        instruction(0x63, 10, 3, -4),                   # the key, on the stack
        instruction(0xBF, 1, 6),
        instruction(0x18, 2, 1, 0, fd), instruction(0),  # r2 = the map
        instruction(0xBF, 3, 10), instruction(0x07, 3, 0, 0, -4),
        instruction(0xB7, 4),                           # BPF_ANY
        instruction(0x85, 0, 0, 0, SOCK_HASH_UPDATE),
        instruction(0xB7, 0, 0, 0, 1),
        instruction(0x95),
    ))  # fmt: skip


class SocketMap:
    """While entered, every connection that is accepted on this machine is put into a map, if it lets itself be."""

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        with self.stack as stack:
            try:
                self.map = _bpf(MAP_CREATE, struct.pack("<IIII", MAP_TYPE_SOCKHASH, 4, 8, 1024))
            except OSError as error:
                raise ktap.Skip("this kernel has no maps of sockets") from error
            stack.callback(os.close, self.map)
            code, license_ = (ctypes.create_string_buffer(text) for text in (_program(self.map), b"GPL"))
            count = (len(code) - 1) // 8
            program = _bpf(PROG_LOAD, struct.pack("<IIQQ", PROG_TYPE_SOCK_OPS, count, _address(code), _address(license_)))
            stack.callback(os.close, program)
            cgroup = os.open(ROOT_CGROUP, os.O_RDONLY)
            stack.callback(os.close, cgroup)
            attachment = struct.pack("<III", cgroup, program, CGROUP_SOCK_OPS)
            _bpf(PROG_ATTACH, attachment)
            stack.callback(_bpf, PROG_DETACH, attachment)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def ports(self):
        """The peers' ports of the sockets in the map."""
        found, key, following = [], None, ctypes.create_string_buffer(4)
        while True:
            try:
                _bpf(MAP_GET_NEXT_KEY, struct.pack("<IIQQ", self.map, 0, _address(key) if key else 0, _address(following)))
            except FileNotFoundError:
                return found
            found.append(int.from_bytes(following.raw, "big"))
            key = ctypes.create_string_buffer(following.raw, 4)
