"""SLURM runs a search: its settings, and the batch script made of them (hpo.slurm_job submits it).

A job is members of one study (hpo.members), one per task, that meet in the study folder; nothing here knows more of
the search than its exit status: 0 the study is finished, 75 (hpo.stop) it was told to leave in time and wants to be
run again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hpo.errors import SearchError

DEFAULT_SIGNAL_SECONDS = 120  # slurmctld looks every 30 s, and may send the signal up to 60 s early
FOLDER = "slurm"  # in the study folder: scripts and what the jobs print


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """[slurm]: what the job asks for, and what its script runs first.

    Attributes
    ----------
    nodes : int or str
        Number of nodes, or a range `"2-8"`.
    tasks_per_node : int
        Members on each node. One uses all cores and GPUs of the node.
    cpus_per_task : int or None
    gpus_per_node : int, str or None
        Number, or type and number: `"a100:4"`. The tasks of a node share them out.
    account, partition, qos, constraint, mem : str or None
        As sbatch takes them.
    time : str, int or None
        Limit of one run of the job, in minutes or as sbatch takes it (`"12:00:00"`); the search goes on in the next.
    array : str or None
        Independent members that come and go as nodes are free: `"0-15"`, `"0-99%8"`.
    signal_seconds : int
        The members are told to leave so long before the limit.
    requeue : bool
        Put the job back into the queue when its time was too short, or its node failed.
    job_name, output : str or None
        Default: the study's name; `slurm/<job>.log` in the study folder.
    setup : tuple of str
        Lines of shell before the search: `module load cuda`, `source venv/bin/activate`.
    extra : tuple of str
        More options of sbatch: `--mail-type=END`.
    """

    nodes: int | str = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int | str | None = None
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    time: str | int | None = None
    constraint: str | None = None
    mem: str | None = None
    array: str | None = None
    signal_seconds: int = DEFAULT_SIGNAL_SECONDS
    requeue: bool = True
    job_name: str | None = None
    output: str | None = None
    setup: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("setup", "extra"):
            value = getattr(self, name)
            lines = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else None
            if lines is None or not all(isinstance(line, str) for line in lines):
                raise _unexpected(name, value, "a list of lines")
            object.__setattr__(self, name, lines)
        for name in ("account", "partition", "qos", "constraint", "mem", "array", "job_name", "output"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip() and value.isprintable()):
                raise _unexpected(name, value, "text of one line")
        for line in self.extra:
            option = line.removeprefix("#SBATCH").strip()
            if not option.startswith("-") or "\n" in option:
                raise _unexpected("extra", line, "options of sbatch such as '--mail-type=END'")
        for name in ("tasks_per_node", "signal_seconds"):
            if not _count(getattr(self, name)):
                raise _unexpected(name, getattr(self, name), "a whole number of at least 1")
        if self.cpus_per_task is not None and not _count(self.cpus_per_task):
            raise _unexpected("cpus_per_task", self.cpus_per_task, "a whole number of at least 1")
        if not (_count(self.nodes) or _matches(r"[1-9]\d*(-[1-9]\d*)?", self.nodes)):
            raise _unexpected("nodes", self.nodes, "a number or a range such as '2-8'")
        gpus = self.gpus_per_node
        if not (gpus is None or _count(gpus) or _matches(r"([\w.-]+:)?[1-9]\d*", gpus)):
            raise _unexpected("gpus_per_node", gpus, "a number or a type and a number such as 'a100:4'")
        if not isinstance(self.requeue, bool):
            raise _unexpected("requeue", self.requeue, "true or false")
        if self.time is not None:
            seconds = time_limit_seconds(self.time)
            if seconds <= self.signal_seconds:
                raise SearchError(
                    f"time is {self.time!r}, that is {seconds:g} s, and the members leave signal_seconds = "
                    f"{self.signal_seconds} before it ends; give more time or fewer signal_seconds"
                )

    @classmethod
    def from_table(cls, table: dict) -> SlurmConfig:
        """Build from a [slurm] table.

        Raises
        ------
        SearchError
            Unknown keys (the valid ones are listed), wrong types, values out of range.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(table) - set(known))
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise SearchError(
                f"[slurm] has no {names}; it may have {', '.join(known)}. Other options of sbatch go into extra"
            )
        try:
            return cls(**table)
        except SearchError as error:
            raise SearchError(f"[slurm] {error}") from None

    def to_table(self) -> dict:
        """Plain values that are not the default; `from_table` of it is the same."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def time_limit_seconds(text: str | int) -> float:
    """Seconds of a time limit as sbatch reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:...].

    Raises
    ------
    SearchError
        Anything else.
    """
    if _count(text):
        return 60.0 * text
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text) if isinstance(text, str) else None
    if not match:
        raise _unexpected("time", text, "minutes, or text such as '90', '12:00:00' or '1-12:00:00'")
    days, *rest = match.groups()
    numbers = [int(n) for n in rest if n is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    return 86400.0 * int(days or 0) + 3600.0 * hours + 60.0 * minutes + seconds


# -- the batch script ----------------------------------------------------------------------------------------------

# One task. Its end leaves a file named by its status: srun tells only the highest of all, and a task that was killed
# would hide what the others say. --no-kill has a price: when the node of the batch script fails, the job goes on
# without a script, and would hold its nodes until the limit; so a task that finds its srun gone settles the job.
_TASK = """\
trap : USR2 TERM
"$@"
status=$?
: >"$0.$status"
if [ "$SLURM_NODEID" != 0 ] && [ "$SLURM_LOCALID" = 0 ]; then
    if ! timeout 10 bash -c ": </dev/tcp/$SLURM_SRUN_COMM_HOST/$SLURM_SRUN_COMM_PORT" 2>/dev/null; then
        case $status in
            0) scancel "$SLURM_JOB_ID" ;;
{requeue}        esac
    fi
fi
exit "$status"
"""
_TASK_REQUEUE = """\
            75) sleep 30; scontrol requeue "$SLURM_JOB_ID" ;;
"""
_BEGIN = """\
: >"$ended.began"
"""
# Some runs in a row may be cut short by chance; so many show that the time does not suffice to get anywhere.
_MOST_IDLE_RUNS = 3
_PROGRESS = f"""\
idle="$study/{FOLDER}/$SLURM_JOB_ID.idle"  # a line for each run in a row that left nothing behind
left() {{
    find "$study"/step? "$study"/cache -newer "$ended.began" \\( -path "*/step?/*" -type f -o -name prepared.json \\)
}}
if [ "$status" != 75 ] || left 2>/dev/null | grep -q .; then
    rm -f "$idle"
else
    echo "$ended" >>"$idle"
fi
"""
_REQUEUE = f"""\
if [ "$status" = 75 ] && [ -e "$idle" ] && [ "$(wc -l <"$idle")" -ge {_MOST_IDLE_RUNS} ]; then
    echo "hpo: {_MOST_IDLE_RUNS} runs of this job in a row finished no trial and wrote no checkpoint: it is not" \\
        "requeued again. Give [slurm] more time or fewer signal_seconds, and see above what kept it" >&2
    rm -f "$idle"
    exit 1
fi
if [ "$status" = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
"""


def render(config: SlurmConfig, command: Sequence[str], *, out: Path, chdir: Path) -> str:
    """The batch script of a search.

    Parameters
    ----------
    config : SlurmConfig
    command : sequence of str
        The search, as every task runs it.
    out : Path
        Study folder.
    chdir : Path
        Folder in which the command is run.

    Returns
    -------
    str
        The script; the same for the same arguments.
    """
    folder = Path(chdir, out, FOLDER)
    log = "%A_%a.log" if config.array else "%j.log"
    options = {
        "job-name": config.job_name or f"hpo-{Path(chdir, out).name}",
        "chdir": str(chdir),
        "output": config.output or f"{str(folder).replace('%', '%%')}/{log}",
        "open-mode": "append",
        "nodes": config.nodes,
        "ntasks-per-node": config.tasks_per_node,
        "cpus-per-task": config.cpus_per_task,
        "gpus-per-node": config.gpus_per_node,
        "mem": config.mem,
        "account": config.account,
        "partition": config.partition,
        "qos": config.qos,
        "constraint": config.constraint,
        "time": config.time,
        "array": config.array,
        "signal": f"USR2@{config.signal_seconds}",
    }
    lines = [f"#SBATCH --{name}={_quoted(str(value))}" for name, value in options.items() if value is not None]
    lines.append("#SBATCH --requeue" if config.requeue else "#SBATCH --no-requeue")
    lines.append("#SBATCH --no-kill")
    lines += [f"#SBATCH {line.removeprefix('#SBATCH').strip()}" for line in config.extra]
    setup = "".join(f"{line}\n" for line in (*config.setup, "")) if config.setup else ""
    cpus = f" --cpus-per-task={config.cpus_per_task}" if config.cpus_per_task else ""  # srun does not inherit it
    task = _TASK.format(requeue=_TASK_REQUEUE if config.requeue else "")
    options_text = "\n".join(lines)
    return f"""\
#!/bin/bash
# Written by python -m hpo.search --launch slurm; by hand: mkdir -p {shlex.quote(str(folder))}, then sbatch this file.
{options_text}

{setup}# A task that ends leaves $ended.STATUS; one whose srun is gone with the first node ends the job itself.
study={shlex.quote(str(folder.parent))}
ended="$study/{FOLDER}/$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}.ended"
{_BEGIN if config.requeue else ""}task={shlex.quote(task)}

# USR2 (the time is nearly over) and TERM (scancel) reach the tasks from SLURM; this script waits until they have left.
trap : USR2 TERM
srun --no-kill --kill-on-bad-exit=0 --wait=0 --label{cpus} bash -c "$task" "$ended" \\
    {shlex.join(command)} \\
    2> >(grep --line-buffered -v "eio_message_socket_accept.*Zero Bytes" >&2) &  # what srun says of the tasks' look
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
status=$?

if [ -e "$ended.0" ]; then
    status=0  # the study is finished, whatever became of single tasks
elif [ -e "$ended.75" ]; then
    status=75  # it is not, and there was no more time
elif squeue --noheader --jobs="$SLURM_JOB_ID" --Format=PreemptTime | grep -q "[0-9]"; then
    status=75  # nor is it here: a job of higher priority takes our nodes
fi
{_PROGRESS if config.requeue else ""}rm -f "$ended".*
{_REQUEUE if config.requeue else ""}exit "$status"
"""


def _quoted(value: str) -> str:
    """A value on an #SBATCH line: sbatch knows double quotes and backslashes there, and expands nothing."""
    if re.fullmatch(r"[\w@%+=:,./&|*()\[\]-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# -- helpers -------------------------------------------------------------------------------------------------------


def _count(value) -> bool:
    return type(value) is int and value >= 1


def _matches(pattern: str, value) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _unexpected(name: str, value, expected: str) -> SearchError:
    return SearchError(f"{name} is {value!r} ({type(value).__name__}); expected {expected}")
