"""The daemon as a systemd service: its unit, its installation, and its word to systemd."""

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client import service_paths
from client.files import write_file
from schemas.base import ConfigError

log = logging.getLogger(__name__)

UNIT: Final = Path("etc/systemd/system/flwr-edge.service")
SYSUSERS: Final = Path("etc/sysusers.d/flwr-edge.conf")
_LEAST_WATCHDOG: Final = 15
_MEMORY: Final = re.compile(r"[1-9]\d*[KMG]?")
_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_STEPS: Final = (
    ("systemd-sysusers", str(Path("/") / SYSUSERS)),
    ("systemctl", "daemon-reload"),
    ("systemctl", "enable", "flwr-edge.service"),
    ("systemctl", "restart", "flwr-edge.service"),
)

# The address space is not limited to writable or executable: libffi's closures may need both.
_UNIT: Final = """\
[Unit]
Description=flwr-edge: learns on this device's own windows
Documentation=https://pypi.org/project/flwr-edge/
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
User={user}
Group={user}
Restart=always
RestartSec=5
WatchdogSec={watchdog}
TimeoutStartSec=60
TimeoutStopSec=20

# Where it keeps things: /var/lib/flwr-edge and /run/flwr-edge
StateDirectory=flwr-edge
StateDirectoryMode=0750
RuntimeDirectory=flwr-edge
ConfigurationDirectory=flwr-edge
UMask=0007

# What it may use
MemoryMax={memory}
MemorySwapMax=0
TasksMax=64
Nice=10
CPUWeight=20
IOSchedulingClass=idle
OOMPolicy=continue

# What it may do
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
{writes}PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Service:
    """What the unit says.

    Attributes
    ----------
    config : Path
        The daemon's configuration, absolute.
    program : Path
        The installed ``flwr-edge``, absolute.
    user : str
        The system user and group it runs as; made where there is none.
    memory : str
        Most memory before the kernel stops it, as systemd writes sizes.
    watchdog : int
        Seconds without a word from it, after which it is restarted.
    """

    config: Path = Path("/etc/flwr-edge/config.toml")
    program: Path = Path(sys.executable).parent / "flwr-edge"
    user: str = "flwr-edge"
    memory: str = "256M"
    watchdog: int = 120

    def __post_init__(self) -> None:
        wrong = [
            f"{name} {value}: expected an absolute path without quotes or control characters"
            for name, value in (("--config", self.config), ("--program", self.program))
            if not value.is_absolute() or not str(value).isprintable() or '"' in str(value)
        ]
        if not _NAME.fullmatch(self.user):
            wrong.append(f"--user {self.user!r}: expected the name of a system user")
        if not _MEMORY.fullmatch(self.memory):
            wrong.append(f"--memory {self.memory!r}: expected a size as in 256M")
        if not _LEAST_WATCHDOG <= self.watchdog <= 3600:
            wrong.append(
                f"--watchdog {self.watchdog}: expected {_LEAST_WATCHDOG} to 3600 seconds; "
                "within less a slow card or a busy board looks like a daemon that hangs"
            )
        if wrong:
            raise ConfigError("install-service", wrong)

    def unit(self, root: Path = Path("/")) -> str:
        """The unit file; what it may reach depends on the configuration below the root."""
        config = service_paths.read(root / self.config.relative_to("/"), self.config.parent)
        service_paths.check(config)
        home = service_paths.at_home(config, self.program, self.config)
        writes = "".join(map(_writable, service_paths.written(config)))
        words = (str(self.program), "run", "--config", str(self.config))
        return _UNIT.format(
            command=" ".join(map(_quoted, words)),
            user=self.user,
            memory=self.memory,
            watchdog=self.watchdog,
            home="read-only" if home else "yes",
            writes=writes,
        )

    def sysusers(self) -> str:
        """The file from which systemd-sysusers makes the user."""
        return f'u {self.user} - "flwr-edge daemon" /var/lib/flwr-edge\n'

    def files(self, root: Path = Path("/")) -> dict[Path, str]:
        """What is written where, below the root."""
        return {SYSUSERS: self.sysusers(), UNIT: self.unit(root)}

    def steps(self) -> list[tuple[str, ...]]:
        """Commands after that: the user is made, and may read the configuration."""
        make, *start = _STEPS
        return [make, ("chgrp", self.user, str(self.config)), *start]


def _call(words: Sequence[str]) -> None:
    try:
        subprocess.run(words, check=True)  # noqa: S603 - our own words
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"{' '.join(words)}: {error}") from error


def install(
    service: Service, root: Path = Path("/"), call: Callable[[Sequence[str]], None] = _call
) -> list[str]:
    """Write the unit, make the user, start the service; again where it is there.

    Parameters
    ----------
    service : Service
    root : Path
        Another root (an image's) only gets the files: nothing is started.
    call : callable(words)
        Runs a command.

    Returns
    -------
    list[str]
        What was done, a line each.

    Raises
    ------
    OSError, RuntimeError
        Where a file cannot be written or a command fails.
    """
    done = []
    for name, text in service.files(root).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode(), 0o644)
        done.append(f"wrote {path}")
    if root == Path("/"):
        for words in service.steps():
            call(words)
            done.append(f"ran {' '.join(words)}")
    return done


def plan(service: Service, root: Path = Path("/")) -> str:
    """What ``install`` would do, in full."""
    parts = [f"# {root / name}\n{text}" for name, text in service.files(root).items()]
    if root == Path("/"):
        parts.append("".join(f"# run: {' '.join(words)}\n" for words in service.steps()))
    return "\n".join(parts)


def sd_notify(state: str) -> bool:
    """Tell systemd: ``READY=1``, ``WATCHDOG=1``, ``STATUS=…``, ``STOPPING=1``.

    Returns
    -------
    bool
        Whether it was told; not where the process is no service, or its socket is gone.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return False
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.settimeout(1.0)
            notify.sendto(state.encode(), address)
    except OSError as error:
        log.debug("systemd was not told %s: %s", state, error)
        return False
    return True


def watchdog_interval() -> float | None:
    """Seconds between two ``WATCHDOG=1``, half of what systemd allows; None where it asks none."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or not int(text) or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2e6


def _writable(path: Path) -> str:
    """A line that ignores a folder which is not there: the daemon says better what is missing."""
    word = str(path).replace("\\", "\\\\").replace("%", "%%")
    return f'ReadWritePaths="-{word}"\n'


def _quoted(word: str) -> str:
    """A word of a unit's command line: % and $ mean something there, and so do blanks."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word else word
