#!/usr/bin/env bash
# One training stage, or another verb that ranks share, under Open MPI's mpirun, which starts the ranks; they talk by NCCL
# or gloo as always.
#
#   launchers/mpi.sh RECIPE --stage STAGE --ranks N [--hostfile FILE] [--master_addr A] [--master_port P] [--restarts K]
#                    [--interface NAME] [--no-preflight] [key=value ...] [--debug] [--dry-run]
#   launchers/mpi.sh RECIPE --verb VERB [the same]
#
# N: ranks in all. FILE has a line `name slots=GPUS` per machine (default: the machines of the allocation, or this one).
# A: an address of the machine of rank 0 (default: the first name of FILE, or this machine), P a free port there (29500).
# Every machine has this directory, the recipe and the environment at the same paths. Environment variables go to all of
# them if their names begin as launchers/README.md lists. --dry-run prints the command, quoted for a shell.
# --interface: the network that NCCL and gloo take. --no-preflight: train without looking at the hosts first.
# VERB: doctor (look at the hosts), precompute, prepare, align, synthesize, select, measure or evaluate (the last two with
# --checkpoint C).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

first_machine() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        line=${line%%[[:space:]]*}
        printf '%s\n' "${line##*@}"
        return
    done <"$HOSTFILE"
    fail "$HOSTFILE names no machine" "write a line 'name slots=GPUS' per machine"
}

first_of_allocation() {  # what mpirun takes its machines from without a hostfile
    if [[ -n ${SLURM_JOB_NODELIST:-} ]]; then
        scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 1q
    elif [[ -n ${PBS_NODEFILE:-} ]]; then
        sed 1q "$PBS_NODEFILE"
    else
        printf '127.0.0.1\n'
    fi
}

tell() {  # mpirun hands USR1 on to all ranks; of a TERM it kills them after a second
    kill -USR1 "$1"
}

read_arguments "--ranks --hostfile --master_addr --master_port --restarts" "$@"
[[ -n $RANKS ]] || fail "the number of ranks was not given" "add --ranks N, over all machines"
find_programs
[[ -n $DRY_RUN ]] || command -v mpirun >/dev/null || fail "there is no mpirun" "install Open MPI (Debian: apt-get install openmpi-bin)"
if [[ -n $HOSTFILE ]]; then
    [[ -f $HOSTFILE ]] || fail "hostfile $HOSTFILE does not exist" "write a line 'name slots=GPUS' per machine"
    MASTER_ADDR=${MASTER_ADDR_OPTION:-$(first_machine)}
else
    MASTER_ADDR=${MASTER_ADDR_OPTION:-$(first_of_allocation)}
fi
export MASTER_ADDR MASTER_PORT=${MASTER_PORT_OPTION:-29500}
without_gpu && export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}

COMMAND=(mpirun -np "$RANKS" --bind-to none --map-by slot)
[[ -n $HOSTFILE ]] && COMMAND+=(--hostfile "$HOSTFILE")
[[ $EUID -ne 0 ]] || COMMAND+=(--allow-run-as-root)
for name in PATH LD_LIBRARY_PATH MASTER_ADDR MASTER_PORT $(compgen -e | grep -E "$PROPAGATED" || true); do
    [[ -z ${!name+set} ]] || COMMAND+=(-x "$name")
done
COMMAND+=("$ENVIRONMENT_PYTHON" -m salad_ds "${WORK[@]}")
launch_again
