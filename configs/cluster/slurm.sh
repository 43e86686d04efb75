#!/usr/bin/env bash
# A sweep on SLURM: a Ray cluster of this job's own nodes, the driver on the first, gone when the job ends.
#
#   sbatch configs/cluster/slurm.sh                                   # from the project's folder, on a shared file system
#   sbatch --nodes=8 configs/cluster/slurm.sh --epochs 8400           # what follows the script goes to sweep.run
#   SWEEP=my_sweep.yaml sbatch --gpus-per-node=0 configs/cluster/slurm.sh
#
# To change, here or on the command line of sbatch: nodes, CPUs, GPUs and time below; --partition and --account, where
# your site wants them. To change in the environment of sbatch:
#   SWEEP        the sweep file                               (configs/sweep/wflw_resnet50_star.yaml)
#   OUTPUT       folder of the sweeps; all nodes see it       (outputs, in the folder that sbatch was called in)
#   PYTHON       Python with the project; all nodes see it    (.venv/bin/python)
#   SECRETS      file with NAME=VALUE lines for the driver, chmod 600: PGPASSWORD, MLFLOW_TRACKING_PASSWORD, ...
#                (~/.config/starsweep.env, if there is one); the workers never get them
#   DRIVER_CPUS  CPUs of the first node for driver and head   (2); trials get the rest of it. As many as the node has:
#                no trials there, and its GPUs stay idle
#   HEAD_IP      address of the first node, if its host name leads to the wrong network
#   REQUEUE      no: do not queue again at the time limit
#
# Two minutes before the time limit the driver gets SIGTERM, notes the interruption, and the job queues again; then the
# same command goes on. The same holds for preemption and dead nodes, if your site requeues. After scancel: sbatch again.
#SBATCH --job-name=starsweep
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=2
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=starsweep-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
sweep=${SWEEP:-configs/sweep/wflw_resnet50_star.yaml}
output=${OUTPUT:-outputs}
python=${PYTHON:-.venv/bin/python}
secrets=${SECRETS:-$HOME/.config/starsweep.env}
ray=$(dirname "$python")/ray
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
temporary=/tmp/ray_$SLURM_JOB_ID # on each node; short, because sockets lie below it

export SRUN_CPUS_PER_TASK=$cpus # srun does not take it over from sbatch
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))') # jobs of others cannot join or read
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # no trial goes to another node when all end
export PYTHONUNBUFFERED=1

end=${SLURM_JOB_END_TIME:-} # seconds since 1970; older SLURMs do not tell the job
if [[ -z $end ]]; then
    end=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p')
    end=$(date --date="$end" +%s 2> /dev/null || echo 0)
fi

steps=()
driver=
stopped=no
code=1

say() {
    echo "$(date +%T) $*"
}

# shellcheck disable=SC2317 # called by a trap
stop() {
    stopped=yes
    deadline=$((SECONDS + 60))
    say "asked to stop"
    if [[ -n $driver ]]; then
        kill -TERM "$driver" 2> /dev/null || true
    fi
}

running() {
    local pid
    for pid in "$@"; do
        if kill -0 "$pid" 2> /dev/null; then
            return 0
        fi
    done
    return 1
}

cleanup() {
    trap '' TERM INT
    if running "$driver"; then # the script itself failed
        kill -TERM "$driver" 2> /dev/null || true
        wait "$driver" || true
    fi
    if ((${#steps[@]})); then
        kill -TERM "${steps[@]}" 2> /dev/null || true
        for ((i = 0; i < 100; i++)); do
            running "${steps[@]}" || break
            sleep 0.2
        done
        kill -KILL "${steps[@]}" 2> /dev/null || true
        wait "${steps[@]}" 2> /dev/null || true
    fi
    if [[ $code == 0 || $code == 130 ]]; then
        timeout 30 srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 rm -rf "$temporary" 2> /dev/null \
            || rm -rf "$temporary" # after scancel there is no srun any more
    else
        say "Ray's log files are kept, on every node: $temporary"
    fi
}
trap stop TERM INT
trap cleanup EXIT

# A node of the cluster: its host, then options of ray start. Each is a step of its own, so that one may die alone.
start_node() {
    local host=$1
    shift
    # shellcheck disable=SC2016 # the number of GPUs is the node's
    srun --nodes=1 --ntasks=1 --nodelist="$host" \
        bash -c 'exec "$0" start --block --num-gpus="${GPUS:-${SLURM_GPUS_ON_NODE:-0}}" "$@"' "$ray" \
        --disable-usage-stats --object-store-memory=500000000 --temp-dir="$temporary" "$@" &
    steps+=($!)
}

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ip=$(hostname --ip-address)
if [[ $ip == 127.* ]]; then # what some /etc/hosts say
    ip=$(hostname --all-ip-addresses)
fi
ip=${HEAD_IP:-${ip%% *}}
port=$((20000 + SLURM_JOB_ID % 1200 * 10)) # several jobs may share a node
address=$ip:$port
say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): Ray at $address on ${hosts[*]}"

head=(--head --node-ip-address="$ip" --port="$port" --dashboard-port=$((port + 2)))
if "$python" -c 'import grpc' 2> /dev/null; then # without, Ray starts no client server, and refuses a port for it
    head+=(--ray-client-server-port=$((port + 1)))
fi
left=$((cpus - ${DRIVER_CPUS:-2}))
if ((left > 0)); then
    head+=(--num-cpus="$left")
else
    export GPUS=0
    head+=(--num-cpus=0)
fi
start_node "${hosts[0]}" "${head[@]}"
unset GPUS
until timeout 5 bash -c ": < /dev/tcp/$ip/$port" 2> /dev/null; do
    if [[ $stopped == yes ]] || ! running "${steps[0]}" || ((SECONDS > 180)); then
        say "Ray's head did not start"
        exit 1
    fi
    sleep 0.3
done

for host in "${hosts[@]:1}"; do
    start_node "$host" --address="$address" --num-cpus="$cpus"
done
# Slots are counted when the sweep starts; a node that does not come within three minutes is done without.
"$python" - "$address" "${#hosts[@]}" << 'END' &
import sys, time, ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
end = time.monotonic() + 180
while (alive := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]) and time.monotonic() < end:
    time.sleep(0.5)
print(f"{alive} of {sys.argv[2]} nodes, {ray.cluster_resources()}", flush=True)
END
steps+=($!)
wait $! || true

if [[ $stopped == no ]]; then
    (
        if [[ -r $secrets ]]; then
            set -a
            # shellcheck disable=SC1090
            . "$secrets"
            set +a
        fi
        exec "$python" -m sweep.run "$sweep" --ray_address "$address" --output "$output" "$@"
    ) &
    driver=$!
    while running "$driver"; do
        if [[ $stopped == no ]]; then
            wait "$driver" || true # a signal ends the waiting, but not yet the driver
        elif ((SECONDS > deadline)); then
            say "the driver does not end; the sweep can go on all the same"
            kill -KILL "$driver"
            deadline=$((SECONDS + 1000))
        else
            sleep 0.2
        fi
    done
    code=0
    wait "$driver" || code=$?
    say "the driver ended with $code"
fi

near=$((end - $(date +%s)))
if [[ $stopped == yes && ${REQUEUE:-yes} != no ]] && ((near > -600 && near < 180)); then
    cleanup
    trap - EXIT
    say "the time limit: the job queues again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
