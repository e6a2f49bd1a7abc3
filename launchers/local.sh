#!/usr/bin/env bash
# One training stage on this machine, or the teacher store (--verb precompute), under the deepspeed launcher.
#
#   launchers/local.sh RECIPE --stage STAGE [--ranks N] [--master_port P] [key=value ...] [--debug] [--dry-run]
#   launchers/local.sh RECIPE --verb precompute [the same]
#
# N defaults to stages.STAGE.ranks of the recipe, for precompute to the most of any stage. --dry-run prints the command, quoted for a shell, and runs nothing.
# A job that was killed is started again with the same line: it goes on from its newest checkpoint.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

read_arguments "--ranks --master_port" "$@"
find_deepspeed
[[ -n $RANKS ]] || RANKS=$(ranks_of_recipe)
is_number --ranks "$RANKS"

COMMAND=(deepspeed)
# DeepSpeed would take a hostfile that lies at its default place, and leave this machine.
[[ -e /job/hostfile ]] && COMMAND+=(--hostfile /dev/null)
COMMAND+=(--num_gpus "$RANKS")
[[ -n $MASTER_PORT_OPTION ]] && COMMAND+=(--master_port "$MASTER_PORT_OPTION")
COMMAND+=(--no_local_rank --module salad_ds "${WORK[@]}")
launch
