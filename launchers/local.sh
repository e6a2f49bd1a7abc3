#!/usr/bin/env bash
# One training stage on this machine, or another verb that ranks share, under the deepspeed launcher.
#
#   launchers/local.sh RECIPE --stage STAGE [--ranks N] [--restarts K] [--master_port P] [--interface NAME] [--no-preflight]
#                      [key=value ...] [--debug] [--dry-run]
#   launchers/local.sh RECIPE --verb VERB [the same]
#
# VERB: doctor (look at the hosts), precompute, prepare, align, synthesize, select, measure or evaluate (the last two with
# --checkpoint C).
# N defaults to stages.STAGE.ranks of the recipe, for other verbs to the most of any stage.
# --restarts: how often a job that failed is started again. --dry-run prints the command, quoted for a shell.
# --interface: the network that NCCL and gloo take. --no-preflight: train without looking at the hosts first.
# A job that was killed is started again with the same line: it goes on from its newest checkpoint.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

read_arguments "--ranks --restarts --master_port" "$@"
find_programs
[[ -n $RANKS ]] || RANKS=$(ranks_of_recipe)

tell() {  # the ranks: `deepspeed` would die of a TERM and leave them alone, its child would hide their exit code
    local child
    for child in $(pgrep -P "$1"); do
        pkill -TERM -P "$child" || kill -TERM "$child"
    done
}

COMMAND=(deepspeed)
# DeepSpeed would take a hostfile that lies at its default place, and leave this machine.
[[ -e /job/hostfile ]] && COMMAND+=(--hostfile /dev/null)
COMMAND+=(--num_gpus "$RANKS")
[[ -n $MASTER_PORT_OPTION ]] && COMMAND+=(--master_port "$MASTER_PORT_OPTION")
COMMAND+=(--no_local_rank --module salad_ds "${WORK[@]}")
launch_again
