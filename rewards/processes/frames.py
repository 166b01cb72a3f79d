"""Frames on a stream socket: eight bytes of length, then the payload.

Parents and worker processes exchange requests and replies in them, and so do the checker of code and its candidates.
"""

import socket
import struct
import time

_HEADER = struct.Struct("!Q")
_MAX_FRAME_BYTES = 1 << 32


def send_frame(connection: socket.socket, payload: bytes, deadline: float | None) -> None:
    """Send one frame.

    Args:
        connection: Our end.
        payload: Its content.
        deadline: Time on the monotonic clock; None for no limit.

    Raises:
        TimeoutError: The deadline passed.
    """
    connection.settimeout(_remaining(deadline))
    connection.sendall(_HEADER.pack(len(payload)) + payload)


def receive_frame(connection: socket.socket, deadline: float | None, most: int = _MAX_FRAME_BYTES) -> bytes:
    """Receive one frame and return its payload.

    Args:
        connection: Our end.
        deadline: Time on the monotonic clock; None for no limit.
        most: Bytes of the longest payload that is accepted.

    Raises:
        TimeoutError: The deadline passed.
        EOFError: The other side is gone.
        ValueError: The frame is longer than `most`.
    """
    (size,) = _HEADER.unpack(_receive_exactly(connection, _HEADER.size, deadline))
    if size > most:
        raise ValueError(f"a frame of {size} bytes: the stream is corrupt")
    return _receive_exactly(connection, size, deadline)


def _receive_exactly(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < size:
        connection.settimeout(_remaining(deadline))
        chunk = connection.recv(min(size - len(received), 1 << 20))
        if not chunk:
            raise EOFError("the other side closed the connection")
        received += chunk
    return bytes(received)


def _remaining(deadline: float | None) -> float | None:
    """Return the seconds left; None where there is no limit. TimeoutError past the deadline."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
