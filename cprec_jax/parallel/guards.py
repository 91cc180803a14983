"""Checks of what the processes of a job must have in common: work directory, config, rows, versions, devices."""

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST, fingerprint
from cprec_jax.config.root import Config
from cprec_jax.environment import versions
from cprec_jax.errors import UserError
from cprec_jax.parallel import processes
from cprec_jax.progress import say

LOOK_S = 30.0  # how long a file written by another host may take to become visible


def check_together(config: Config, workdir: Path) -> None:
    """Raise `UserError` in every process, one line per difference. The first process logs how many there are.

    All processes must call.
    """
    token = processes.from_first(lambda: _write_token(workdir))
    records = processes.of_all(_record(config, workdir, token))
    processes.by_first(lambda: _compare(records or [], workdir, os.environ))


def _write_token(workdir: Path) -> str:
    token = secrets.token_hex(8)
    (workdir / paths.TOKEN).write_text(token, encoding="utf-8")
    return token


def _record(config: Config, workdir: Path, token: str) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "sees_token": _sees(workdir / paths.TOKEN, token),
        "sections": {name: fingerprint(_plain(section)) for name, section in vars(config).items()},
        "rows": _rows_hash(workdir),
        "versions": versions(),
        "devices": len(jax.local_devices()),
        "platform": jax.local_devices()[0].platform,
    }


def _plain(section: Any) -> Any:
    """A section of the config as JSON; a mapping of sections (`runs`, `evaluate.names`) key by key."""
    if isinstance(section, Mapping):
        return {str(name): _plain(entry) for name, entry in section.items()}
    return (
        json.loads(json.dumps(asdict(section), default=_in_order))
        if hasattr(section, "__dataclass_fields__")
        else repr(section)
    )


def _in_order(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _sees(path: Path, token: str) -> bool:
    """Whether the file holds the token within `LOOK_S`, the delay of network file systems."""
    deadline = time.monotonic() + (LOOK_S if path.parent.is_dir() else 0.0)
    while True:
        try:
            if path.read_text(encoding="utf-8") == token:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)


def _rows_hash(workdir: Path) -> str | None:
    try:
        return str(json.loads((paths.rows_directory(workdir) / MANIFEST).read_text(encoding="utf-8"))["rows_hash"])
    except (OSError, ValueError, LookupError):
        return None


def _compare(records: Sequence[Mapping[str, Any]], workdir: Path, environment: Mapping[str, str]) -> None:
    """Raise `UserError` for the differences between records of all processes, in the order of their numbers."""
    if mistakes := [*differences(records, workdir), *gpu_mistakes(records, environment)]:
        raise UserError("\n".join(mistakes))
    hosts = len({record["host"] for record in records})
    total, platform = sum(record["devices"] for record in records), records[0]["platform"]
    say(f"{len(records)} processes on {hosts} host{'s' * (hosts > 1)}, {total} {platform} device{'s' * (total > 1)}")


def differences(records: Sequence[Mapping[str, Any]], workdir: Path) -> list[str]:
    """One line per difference from the first process; of several processes with the same difference the first is
    named."""
    lines: dict[str, str] = {}
    first = records[0]
    for number, record in enumerate(records):
        who = f"process {number + 1} of {len(records)} ({record['host']})"
        if not record["sees_token"]:
            lines.setdefault(
                "token",
                f"--workdir: {who} does not see what process 1 ({first['host']}) wrote into {workdir}; all processes "
                "need the same directory, so give one on a disk that the hosts share (those of a Cloud TPU pod share "
                "none by default)",
            )
            continue  # its rows differ, too
        for name, hashed in record["sections"].items():
            if hashed != first["sections"].get(name):
                lines.setdefault(
                    name,
                    f"config.{name}: differs between {who} and process 1; give all processes the same config and "
                    "overrides",
                )
        for name in sorted({*record["versions"], *first["versions"]}):
            first_version, version = first["versions"].get(name, "absent"), record["versions"].get(name, "absent")
            if first_version != version:
                lines.setdefault(
                    f"version {name}",
                    f"{name} is {version} in {who}, and {first_version} in process 1; install the same on all hosts",
                )
        if record["rows"] != first["rows"]:
            lines.setdefault(
                "rows",
                f"{paths.rows_directory(workdir)}: {who} sees other rows there than process 1; wait until both see "
                "the same",
            )
        if record["devices"] != first["devices"]:
            lines.setdefault(
                "devices",
                f"{who} has {record['devices']} devices, process 1 has {first['devices']}; give every process the same "
                "number",
            )
    return list(lines.values())


def gpu_mistakes(records: Sequence[Mapping[str, Any]], environment: Mapping[str, str]) -> list[str]:
    """One line where Slurm allocated GPUs that no process uses: by default jax uses one GPU per Slurm task."""
    given = environment.get("SLURM_GPUS_ON_NODE", "")
    if records[0]["platform"] not in ("gpu", "cuda") or not given.isdigit():
        return []
    used = sum(record["devices"] for record in records if record["host"] == records[0]["host"])
    if used >= int(given):
        return []
    listed = ",".join(map(str, range(int(given))))
    return [
        f"{records[0]['host']}: Slurm gave {given} GPUs and {used} are used; take `#SBATCH --ntasks-per-node={given} "
        f"--gpus-per-node={given}` (a process per GPU), or `#SBATCH --ntasks-per-node=1 --gpus-per-node={given}` and "
        f"`export JAX_LOCAL_DEVICE_IDS={listed}`"
    ]
