"""Which system calls a program may make: a list of what Python needs; every other call is "not implemented".

The answer is not a refusal, because libc falls back to older calls after "not implemented". A program cannot make or
connect a socket (it keeps the one it is given, and stream pairs), make a namespace, trace, use memory outside the
counted kinds, or set a signal that outlives its parent. A call of a foreign architecture (x32 included) kills it.

libseccomp knows the numbers of the calls on each architecture and compiles the list; every distribution with apt or
systemd has the library. The compiled filter is bytes, so neither it nor its binding has to exist inside.
"""

import errno
import functools
import socket
import tempfile
from typing import Any

from redraft.rewards.sandbox.program import SandboxError

# One process that computes, reads files, talks on descriptors that it has, and runs threads.
_COMPUTE = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3
pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime sendfile fadvise64
open openat stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat statfs fstatfs
getcwd chdir fchdir getdents getdents64
brk mmap munmap mprotect mremap madvise mincore membarrier
futex get_robust_list set_robust_list set_tid_address rseq arch_prctl exit exit_group
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack restart_syscall pause
alarm setitimer getitimer nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
getpid gettid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getgroups
uname sysinfo getrandom getrusage getrlimit setrlimit sched_yield sched_getaffinity getcpu getpriority
sendto recvfrom sendmsg recvmsg getsockname getpeername getsockopt shutdown
"""

# Where a namespace bounds them: processes, signals, and files of a disk that vanishes.
_BOUNDED = """
fork vfork execve wait4 waitid kill tkill tgkill setsid setpgid umask
creat mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
chmod fchmod fchmodat fchmodat2 truncate ftruncate fallocate utimensat utime utimes futimesat flock fsync fdatasync
copy_file_range getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
"""

# fcntl and ioctl can also name a process to be signalled: only what duplicates, describes, locks and blocks.
_FCNTL = (*range(8), 1024 + 6, 1024 + 7, 1024 + 8)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_PRCTL = (15, 16)  # a thread's name; not the signal of a parent's death
_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020000 | 0x80  # every namespace


@functools.cache
def compiled(processes: bool) -> bytes:
    """Compile the filter into instructions for the kernel of this machine.

    Args:
        processes: Also allow processes, signals and changes of files, because a namespace bounds them.

    Raises:
        SandboxError: libseccomp or its binding is missing.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxError(
            f"the system-call filter needs libseccomp and the package pyseccomp ({error}); "
            "run `apt-get install libseccomp2` and `pip install pyseccomp`"
        ) from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in (_COMPUTE + _BOUNDED if processes else _COMPUTE).split():
        _allow(pyseccomp, rules, name)
    for name, position, values in (("fcntl", 1, _FCNTL), ("ioctl", 1, _IOCTL), ("prctl", 0, _PRCTL)):
        for value in values:
            _allow(pyseccomp, rules, name, pyseccomp.Arg(position, pyseccomp.EQ, value))
    _allow(pyseccomp, rules, "prlimit64", pyseccomp.Arg(0, pyseccomp.EQ, 0))
    # A datagram pair could still address any other socket of this machine.
    pair = pyseccomp.Arg(0, pyseccomp.EQ, int(socket.AF_UNIX))
    _allow(pyseccomp, rules, "socketpair", pair, pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xF, int(socket.SOCK_STREAM)))
    wanted = (_CLONE_NEW, 0) if processes else (_CLONE_THREAD, _CLONE_THREAD)
    _allow(pyseccomp, rules, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, *wanted))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _allow(pyseccomp: Any, rules: Any, name: str, *arguments: Any) -> None:
    # Negative: the call is newer than the library, or does not exist on this architecture.
    if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
        rules.add_rule(pyseccomp.ALLOW, name, *arguments)
