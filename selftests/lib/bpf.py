# SPDX-License-Identifier: GPL-2.0
"""As much of bpf(2) as it takes to have programs run for the events of TCP's sockets (sock_ops)."""

import contextlib
import ctypes
import os
import struct

from . import ktap

SYS_BPF = 321  # x86-64
MAP_CREATE, MAP_GET_NEXT_KEY, PROG_LOAD, PROG_ATTACH, PROG_DETACH = 0, 4, 5, 8, 9
MAP_TYPE_SOCKHASH, PROG_TYPE_SOCK_OPS, CGROUP_SOCK_OPS = 18, 13, 3
ACTIVE_ESTABLISHED, PASSIVE_ESTABLISHED, HDR_OPT_LEN = 4, 5, 14
SETSOCKOPT, CB_FLAGS_SET, SOCK_HASH_UPDATE = 49, 59, 70
WRITE_HDR_OPT = 1 << 6
SOL_SOCKET, SO_RCVLOWAT = 1, 18
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


def _instruction(code, dst=0, src=0, off=0, imm=0):
    return struct.pack("<BBhi", code, src << 4 | dst, off, imm)


def _attach(stack, program):
    """Has the program run for every socket of this machine until the stack is left."""
    code, license_ = (ctypes.create_string_buffer(text) for text in (program, b"GPL"))
    count = (len(code) - 1) // 8
    loaded = _bpf(PROG_LOAD, struct.pack("<IIQQ", PROG_TYPE_SOCK_OPS, count, _address(code), _address(license_)))
    stack.callback(os.close, loaded)
    cgroup = os.open(ROOT_CGROUP, os.O_RDONLY)
    stack.callback(os.close, cgroup)
    attachment = struct.pack("<III", cgroup, loaded, CGROUP_SOCK_OPS)
    _bpf(PROG_ATTACH, attachment)
    stack.callback(_bpf, PROG_DETACH, attachment)


@contextlib.contextmanager
def low_water():
    """While entered, TCP sets SO_RCVLOWAT of a socket whenever it writes the header of a segment for it, which has it call
    whoever waits for data: from inside sendmsg(), shutdown() and reading."""
    instruction = _instruction
    program = b"".join((
        instruction(0xBF, 6, 1),                        # r6 = the context
        instruction(0x61, 2, 6, OP),                    # r2 = what happened
        instruction(0x15, 2, 0, 2, ACTIVE_ESTABLISHED),
        instruction(0x15, 2, 0, 1, PASSIVE_ESTABLISHED),
        instruction(0x05, 0, 0, 4),                     # anything else: on
        instruction(0xBF, 1, 6),
        instruction(0xB7, 2, 0, 0, WRITE_HDR_OPT),      # be called for headers
        instruction(0x85, 0, 0, 0, CB_FLAGS_SET),
        instruction(0x05, 0, 0, 9),                     # to the end
        instruction(0x55, 2, 0, 8, HDR_OPT_LEN),        # anything else: to the end
        instruction(0x62, 10, 0, -4, 1),                # the value, on the stack
        instruction(0xBF, 1, 6),
        instruction(0xB7, 2, 0, 0, SOL_SOCKET),
        instruction(0xB7, 3, 0, 0, SO_RCVLOWAT),
        instruction(0xBF, 4, 10), instruction(0x07, 4, 0, 0, -4),
        instruction(0xB7, 5, 0, 0, 4),
        instruction(0x85, 0, 0, 0, SETSOCKOPT),
        instruction(0xB7, 0, 0, 0, 1),
        instruction(0x95),
    ))  # fmt: skip
    with contextlib.ExitStack() as stack:
        try:
            _attach(stack, program)
        except OSError as error:
            raise ktap.Skip(f"this kernel does not take the program: {error}") from error
        yield


def _program(fd):
    """Puts each socket that was accepted into the map, by its peer's port."""
    instruction = _instruction
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
            _attach(stack, _program(self.map))
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
