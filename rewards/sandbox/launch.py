"""Start a process that inherits nothing of ours but one end of a socket."""

import socket
import subprocess
from collections.abc import Sequence

from redraft.rewards.sandbox.identity import Identity
from redraft.rewards.sandbox.program import SandboxError

# No variable of ours is passed on. Python reads none under -I, but the locale decides how text is encoded.
ENVIRONMENT = {"LC_ALL": "C.UTF-8"}


def spawn(
    command: Sequence[str], identity: Identity, pipes: bool, fds: Sequence[int] = (), folder: str = "/"
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a command under an identity, with an empty environment and its own session.

    Args:
        command: What to run; the number of the descriptor of its end of the channel is appended.
        identity: Whose rights it runs with.
        pipes: Give it pipes as stdin, stdout and stderr; else all three are ``/dev/null``.
        fds: More descriptors that it inherits, under the same numbers.
        folder: Its working directory.

    Returns:
        The process and our end of the channel.

    Raises:
        SandboxError: The command cannot be run under that identity.
    """
    stream = subprocess.PIPE if pipes else subprocess.DEVNULL
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=stream,
                stdout=stream,
                stderr=stream,
                env=ENVIRONMENT,
                cwd=folder,
                pass_fds=[theirs.fileno(), *fds],
                start_new_session=True,
                user=identity.uid,
                group=identity.uid,
                extra_groups=identity.groups,
            )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            raise SandboxError(f"{command[0]} cannot be started under {identity}: {error}") from error
    return process, ours
