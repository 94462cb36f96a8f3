#!/usr/bin/env bash
# A real Slurm of one node on this machine: for the tests, and for trying out `normbench sweep --launcher slurm`.
#
#   scripts/slurm_local.sh install                    slurm-wlm and munge, from Debian's packages
#   eval "$(scripts/slurm_local.sh start [FOLDER])"   brings it up and exports SLURM_CONF; partition cpu, all cores
#   scripts/slurm_local.sh status [FOLDER]            sinfo
#   scripts/slurm_local.sh stop [FOLDER]              cancels its jobs and ends the daemons
#
# State, logs and slurm.conf are under FOLDER (${TMPDIR:-/tmp}/slurm-normbench). install, start and stop run as root.
# Without accounting: sacct knows nothing, squeue and scontrol know a job until 10 minutes after its end.
set -euo pipefail

say() { echo "slurm_local: $*" >&2; }
die() { say "$*"; exit 1; }
is_installed() { type slurmctld slurmd sbatch munged munge >/dev/null 2>&1; }

install_packages() {
    is_installed && return
    if [[ $EUID != 0 ]] || ! type apt-get >/dev/null 2>&1; then die "install needs root on Debian or the like"; fi
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge)
    "${get[@]}" >&2 || { apt-get update -q >&2 && "${get[@]}" >&2; } || die "apt-get could not get slurm-wlm and munge"
}

# The pid of a daemon that start began.
pid_of() {
    local pid
    pid=$(cat "$folder"/{,munge/}"$1.pid" 2>/dev/null) || [[ $pid ]] || return
    is_ours "$pid" && echo "$pid"
}

# A pid file from before a reboot may name any process: the command line tells.
is_ours() { grep -qsaF "$folder/" "/proc/$1/cmdline"; }

# Starts what does not run: a controller alone finds its jobs again, and so does a slurmd.
start() {
    local daemon were_dead=""
    [[ $EUID == 0 ]] || die "start needs root"
    is_installed || die "Slurm is not installed: scripts/slurm_local.sh install"
    [[ $folder != *[[:space:]]* ]] || die "slurm.conf takes no spaces in a path: $folder"
    if ! { pid_of slurmctld || pid_of slurmd; } >/dev/null; then
        were_dead=both
        end_daemons
        mkdir -p "$folder/state" "$folder/spool"
        start_munged
        write_conf
    fi
    for daemon in slurmctld slurmd; do
        pid_of "$daemon" >/dev/null && continue
        "$daemon" -f "$SLURM_CONF" >>"$folder/$daemon.log" 2>&1 || die "$daemon did not start: $folder/$daemon.log"
    done
    wait_for_node
    # What ran when both died still counts as running: with its node lost, it is requeued.
    if [[ $were_dead && $(squeue -h -t RUNNING) ]]; then
        scontrol update nodename="$(hostname -s)" state=down reason="started anew"
        wait_for_node
    fi
    printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
}

# Uses the machine's munged where one answers. Ours runs as user munge, who owns the key; it wants its folder to itself.
start_munged() {
    auth_info=cred_expire=10 # a requeued job may start again only this much later; 120 unless told
    munge -n >/dev/null 2>&1 && return
    install -d -o munge -g munge -m 0755 "$folder/munge"
    local own="$folder/munge/munged"
    runuser -u munge -- test -w "$folder/munge" || die "user munge must be able to enter every folder above $folder"
    runuser -u munge -- munged --force --socket="$own.socket" --pid-file="$own.pid" --log-file="$own.log" \
        --seed-file="$own.seed" >&2 || die "munged did not start: $own.log"
    auth_info+=,socket=$own.socket
}

write_conf() {
    local port=6817 host memory
    while is_taken "$port" || is_taken "$((port + 1))"; do port=$((port + 2)); done
    host=$(hostname -s)
    memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    cat >"$SLURM_CONF" <<CONF
ClusterName=normbench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=$auth_info
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
JobRequeue=1
KillWait=30
MinJobAge=600
BatchStartTimeout=20
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$memory
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

is_taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

wait_for_node() {
    local state="" end=$((SECONDS + 30))
    while ((SECONDS < end)); do
        state=$(sinfo -h -p cpu -o %t 2>/dev/null) || state="slurmctld does not answer"
        case $state in
            idle | mix | alloc | comp | plnd) return ;;
            down | drain | drng) scontrol update nodename="$(hostname -s)" state=resume 2>/dev/null || : ;;
        esac
        sleep 0.3
    done
    die "after 30 s the node is not ready ($state): see $folder/slurmctld.log and $folder/slurmd.log"
}

# A job that ignores SIGTERM lasts KillWait longer, and slurmd stays to see its end.
stop() {
    if pid_of slurmctld >/dev/null && scancel -p cpu; then
        for _ in {1..200}; do [[ $(squeue -h) ]] || break; sleep 0.2; done
    fi
    end_daemons
}

end_daemons() {
    local daemon pid
    for daemon in slurmd slurmctld munged; do
        pid=$(pid_of "$daemon") || continue
        kill "$pid"
        for _ in {1..200}; do is_ours "$pid" || continue 2; sleep 0.2; done
        die "$daemon (pid $pid) did not end in 40 s"
    done
}

folder=$(realpath -m "${2:-${TMPDIR:-/tmp}/slurm-normbench}")
export SLURM_CONF=$folder/slurm.conf
case ${1:-} in
    install) install_packages ;;
    start | stop) "$1" ;;
    status) sinfo ;;
    *) say "install, start, stop or status, then a FOLDER or none"; exit 2 ;;
esac
