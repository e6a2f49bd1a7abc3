#!/usr/bin/env bash
# One training stage on the machines of a hostfile, or another verb that ranks share, under the deepspeed launcher.
#
#   launchers/deepspeed_hostfile.sh RECIPE --stage STAGE --hostfile FILE [--master_addr A] [--master_port P]
#                                   [--restarts K] [--interface NAME] [--no-preflight] [key=value ...] [--debug] [--dry-run]
#   launchers/deepspeed_hostfile.sh RECIPE --stage STAGE --hostfile FILE --no_ssh --node_rank I --master_addr A [the same]
#   launchers/deepspeed_hostfile.sh RECIPE --verb VERB --hostfile FILE [the same]
#
# Run it on one of the machines: pdsh reaches the others. With --no_ssh nothing does: run it on each, with I = 0, 1, ...
# in the order of FILE, and A the first one's address.
# --interface: the network that NCCL and gloo take. --no-preflight: train without looking at the hosts first.
# VERB: doctor (look at the hosts), precompute, prepare, align, synthesize, select, measure or evaluate (the last two with
# --checkpoint C).
# FILE has a line `name slots=GPUS` per machine. Every machine has this directory, the recipe and the environment at the
# same paths, and lets you in by ssh without a password; see launchers/README.md.
# --dry-run prints the command, quoted for a shell, and runs nothing. The same line again goes on after a stop.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

# DeepSpeed hands everything to a shell on the other machines, unquoted, and pdsh replaces %n, %h and %u.
PLAIN='^[A-Za-z0-9_./:=,@+-]*$'

check_plain() {  # name, value, mend
    [[ $2 =~ $PLAIN ]] || fail "$1 '$2' holds a character that the shell of the other machines would interpret" "$3"
}

check_hostfile() {  # DeepSpeed's own words about a bad line are a traceback
    local line host number=0
    [[ -f $HOSTFILE ]] || fail "hostfile $HOSTFILE does not exist" "write a line 'name slots=GPUS' per machine"
    HOSTS=()
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        [[ $line =~ ^[[:space:]]*([^[:space:]:]+)[[:space:]]+slots=[1-9][0-9]*[[:space:]]*$ ]] ||
            fail "$HOSTFILE, line $number: '$line' is not 'name slots=GPUS'" "another port than 22 goes into ~/.ssh/config"
        host=${BASH_REMATCH[1]}
        check_plain "host" "$host" "use plain names, with an entry in ~/.ssh/config"
        [[ " ${HOSTS[*]-} " != *" $host "* ]] || fail "$HOSTFILE names $host twice" "add its slots up"
        HOSTS+=("$host")
    done <"$HOSTFILE"
    ((${#HOSTS[@]})) || fail "$HOSTFILE names no machine" "write a line 'name slots=GPUS' per machine"
}

check_environment() {  # variables that go to the other machines, and the file that lists more of them
    local name file number line
    OWN_VARIABLES=()
    for name in $(compgen -e); do
        # DeepSpeed itself exports the former; the others it reads from a file.
        if [[ $name =~ ^(MLFLOW|PYTHON|MV2|UCX|NCCL) || $name =~ $PROPAGATED ]]; then
            # Spaces are quoted by DeepSpeed; what a shell reads inside double quotes is not.
            [[ ${!name} != *[\"\$\`\\%]* && ${!name} != *$'\n'* ]] ||
                fail "the variable $name holds one of \" \$ \` \\ % or a line break, which do not survive the way" \
                    "unset it here and set it on every machine"
        fi
        [[ ! $name =~ $PROPAGATED || $name =~ ^(NCCL|MLFLOW|UCX) ]] || OWN_VARIABLES+=("$name=${!name}")
    done
    for file in "$HOME/${DS_ENV_FILE:-.deepspeed_env}" "./${DS_ENV_FILE:-.deepspeed_env}" "${DS_ENV_FILE:-}"; do
        [[ -f $file ]] || continue
        number=0
        while IFS= read -r line || [[ -n $line ]]; do
            number=$((number + 1))
            [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] ||
                fail "$file, line $number: '$line' is not NAME=value" "DeepSpeed allows no blank lines and no comments there"
        done <"$file"
    done
}

take_along() {  # OWN_VARIABLES, by the file that DeepSpeed reads such from; what a user's file says of them comes later
    local users file
    ((${#OWN_VARIABLES[@]})) || return 0
    file=$(mktemp "${TMPDIR:-/tmp}/salad-ds-variables.XXXXXXXXXX")
    printf '%s\n' "${OWN_VARIABLES[@]}" >"$file"
    for users in "$HOME/${DS_ENV_FILE:-.deepspeed_env}" "./${DS_ENV_FILE:-.deepspeed_env}" "${DS_ENV_FILE:-}"; do
        [[ -z $users || ! -f $users ]] || cat "$users" >>"$file"
    done
    trap 'rm -f "$DS_ENV_FILE"' EXIT
    export DS_ENV_FILE=$file  # an absolute path stays one behind the directories that DeepSpeed looks in
}

check_machines() {  # DeepSpeed tries the first one only; a rank that is missing leaves the others waiting for half an hour
    local host
    command -v pdsh >/dev/null || fail "pdsh is not installed" "install it here (Debian: apt-get install pdsh)"
    for host in "${HOSTS[@]}"; do
        ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" "cd $PWD && test -f $RECIPE && test -x $ENVIRONMENT_PYTHON" </dev/null ||
            fail "$host: no ssh without a password, or it lacks $PWD, $RECIPE or $ENVIRONMENT_PYTHON" \
                "ssh $host must work by itself, and every machine needs the same paths"
    done
}

read_arguments "--hostfile --master_addr --master_port --restarts --no_ssh --node_rank" "$@"
[[ -n $HOSTFILE ]] || fail "no hostfile was given" "add --hostfile FILE, with a line 'name slots=GPUS' per machine"
MEND="write it into the recipe, or give it a plain value (letters, digits and _ . / : = , @ + -)"
for argument in "$RECIPE" "$STAGE" "$MASTER_ADDR_OPTION" "${PASSED[@]}"; do
    check_plain "argument" "$argument" "$MEND"
done
find_programs
check_plain "the directory" "$PWD" "work in a directory with a plain name"
check_plain "the environment" "$ENVIRONMENT_PYTHON" "put it into a directory with a plain name"
check_hostfile
check_environment

if [[ -n $NO_SSH ]]; then
    [[ -n $NODE_RANK && -n $MASTER_ADDR_OPTION ]] || fail "--no_ssh needs --node_rank and --master_addr" \
        "--node_rank is this machine's place in $HOSTFILE, from 0; --master_addr the first one's address"
    ((NODE_RANK < ${#HOSTS[@]})) || fail "--node_rank is $NODE_RANK, and $HOSTFILE names ${#HOSTS[@]} machines" "count from 0"
    COMMAND=(deepspeed --hostfile "$HOSTFILE" --no_ssh --node_rank "$NODE_RANK")
else
    [[ -z $NODE_RANK ]] || fail "--node_rank goes with --no_ssh" "leave it out: pdsh numbers the machines"
    [[ -n $DRY_RUN ]] || check_machines
    # --force_multi: a list of one machine, which need not be this one, goes through pdsh too.
    COMMAND=(deepspeed --hostfile "$HOSTFILE" --launcher pdsh --force_multi)
fi
[[ -n $MASTER_ADDR_OPTION ]] && COMMAND+=(--master_addr "$MASTER_ADDR_OPTION")
[[ -n $MASTER_PORT_OPTION ]] && COMMAND+=(--master_port "$MASTER_PORT_OPTION")
COMMAND+=(--no_local_rank --module salad_ds "${WORK[@]}")
if [[ -z $NO_SSH && -n $DRY_RUN ]] && ((${#OWN_VARIABLES[@]})); then
    printf 'with %s\n' "${OWN_VARIABLES[*]}" >&2
elif [[ -z $NO_SSH && -z $DRY_RUN ]]; then
    without_gpu && OWN_VARIABLES+=("DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}")
    take_along
fi
launch_again
