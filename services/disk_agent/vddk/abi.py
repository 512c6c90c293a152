"""The part of libvixDiskLib's ABI that reading needs: numbers, layouts, signatures.

Source: VMware's vixDiskLib.h, for x86-64. Layouts are the same from VDDK 6.7 to 9.
"""

from __future__ import annotations

import ctypes
from typing import Any

SECTOR_BYTES = 512
CHUNK_SECTORS = 128
"""VIXDISKLIB_MIN_CHUNK_SIZE: 64 KiB."""
CHUNK_BYTES = CHUNK_SECTORS * SECTOR_BYTES
MAX_CHUNKS = 512 * 1024
"""VIXDISKLIB_MAX_CHUNK_NUMBER of one query."""
LARGEST_READ_BYTES = 2 * 1024 * 1024
"""VDDK gains nothing from larger reads, and hosts refuse some of them."""

API_MAJOR, API_MINOR = 6, 5
"""Every release from 6.5 on accepts this, and nothing newer is used."""

COMPRESSION = {"none": 0, "zlib": 16, "fastlz": 32, "skipz": 64}
FLAG_UNBUFFERED, FLAG_SINGLE_LINK, FLAG_READ_ONLY = 1, 2, 4
CREDENTIALS_UID = 1
VIX_ASYNC = 25000


class ConnectParams(ctypes.Structure):
    _fields_ = (
        ("vmx_spec", ctypes.c_char_p),
        ("server_name", ctypes.c_char_p),
        ("thumbprint", ctypes.c_char_p),
        ("private_use", ctypes.c_long),
        ("credentials_type", ctypes.c_uint32),
        ("user_name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("credentials_rest", ctypes.c_void_p),
        ("port", ctypes.c_uint32),
        ("nfc_host_port", ctypes.c_uint32),
        ("rest", ctypes.c_char * 56),
    )


class Info(ctypes.Structure):
    _fields_ = (
        ("geometries", ctypes.c_uint32 * 6),
        ("capacity_sectors", ctypes.c_uint64),
        # More follows, of a length that differs between releases; the library allocates it.
    )


class Block(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class BlockList(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint32), ("blocks", Block * 0))


LOG_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)
COMPLETION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "InitEx": (
        ctypes.c_uint64,
        [
            ctypes.c_uint32,
            ctypes.c_uint32,
            LOG_FUNCTION,
            LOG_FUNCTION,
            LOG_FUNCTION,
            ctypes.c_char_p,
            ctypes.c_char_p,
        ],
    ),
    "Exit": (None, []),
    "GetErrorText": (ctypes.c_void_p, [ctypes.c_uint64, ctypes.c_char_p]),
    "FreeErrorText": (None, [ctypes.c_void_p]),
    "ConnectEx": (
        ctypes.c_uint64,
        [
            ctypes.POINTER(ConnectParams),
            ctypes.c_char,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_void_p),
        ],
    ),
    "Open": (
        ctypes.c_uint64,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p)],
    ),
    "GetTransportMode": (ctypes.c_char_p, [ctypes.c_void_p]),
    "Close": (ctypes.c_uint64, [ctypes.c_void_p]),
    "Disconnect": (ctypes.c_uint64, [ctypes.c_void_p]),
    "GetInfo": (ctypes.c_uint64, [ctypes.c_void_p, ctypes.POINTER(ctypes.POINTER(Info))]),
    "FreeInfo": (None, [ctypes.POINTER(Info)]),
    "ReadAsync": (
        ctypes.c_uint64,
        [
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_uint64,
            ctypes.c_void_p,
            COMPLETION,
            ctypes.c_void_p,
        ],
    ),
    "AllocateConnectParams": (ctypes.POINTER(ConnectParams), []),
    "FreeConnectParams": (None, [ctypes.POINTER(ConnectParams)]),
    "QueryAllocatedBlocks": (
        ctypes.c_uint64,
        [
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_uint64,
            ctypes.c_uint64,
            ctypes.POINTER(ctypes.POINTER(BlockList)),
        ],
    ),
    "FreeBlockList": (ctypes.c_uint64, [ctypes.POINTER(BlockList)]),
}
OPTIONAL = ("AllocateConnectParams", "FreeConnectParams", "QueryAllocatedBlocks", "FreeBlockList")
