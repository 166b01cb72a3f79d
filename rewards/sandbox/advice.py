"""What to do where the kernel refuses a facility: one sentence, from the settings of this machine."""

from pathlib import Path

# In the order of how often they are the reason; each names the setting's bad value and what changes it.
_SETTINGS = {
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "AppArmor keeps user namespaces from ordinary programs (Ubuntu 23.10 and later): give bwrap a profile with "
        "`userns,`, or run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
    "kernel/unprivileged_userns_clone": (
        "0",
        "user namespaces are switched off: run `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    "user/max_user_namespaces": (
        "0",
        "user namespaces are switched off: run `sysctl -w user.max_user_namespaces=10000`",
    ),
}
_MARKS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")


def user_namespaces(root: Path = Path("/")) -> str:
    """Say why user namespaces are probably refused here, and what allows them."""
    for setting, (bad, advice) in _SETTINGS.items():
        file = root / "proc/sys" / setting
        if file.is_file() and file.read_text().strip() == bad:
            return advice
    if any((root / mark.lstrip("/")).exists() for mark in _MARKS):
        return (
            "This is a container, and its system-call profile probably forbids namespaces: start it with "
            "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined` (Kubernetes: "
            "`seccompProfile: Unconfined`), or choose the landlock layer"
        )
    return "No setting that this program knows forbids user namespaces here; choose the landlock layer"


LANDLOCK = (
    "needs Linux 5.13 or later with `landlock` in the kernel's `lsm=` list (see /sys/kernel/security/lsm) and, in a "
    "container, a system-call profile that allows it (Docker 20.10.9 and later do)"
)
