#!/bin/bash
# A search under Slurm, on a part of a node or on several nodes. What follows the script's name are
# options of search.run:
#
#   sbatch --job-name=storm slurm.sh --data photos --space spaces.aerial --trials 100
#   sbatch --job-name=storm --nodes=1-4 --exclusive slurm.sh --data photos --space spaces.aerial --trials 100
#
# The run is runs/storm, in the folder where sbatch is called. Before the job's time is up the search
# stops gently, and the job queues again, to go on with it. The same command also goes on with it
# after the job failed or was cancelled. docs/how-to/slurm.md says more.
#
# Change the lines marked CHANGE, or give sbatch the same options: they stand over these.

#SBATCH --job-name=segsearch
#SBATCH --time=08:00:00                # CHANGE: what the partition allows
#SBATCH --gpus-per-node=1              # CHANGE: a trial at a time for each GPU
#SBATCH --cpus-per-task=8              # CHANGE: of each node, as is --mem
#SBATCH --mem=32G                      # CHANGE
##SBATCH --partition=gpu --account=me  # CHANGE: with one # less, where the cluster asks for them
#SBATCH --nodes=1
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

# CHANGE: what makes `python` that of segsearch, unless it is where you call sbatch.
# module load cuda
# source ~/segsearch/.venv/bin/activate
# export SEGSEARCH_CACHE=$HOME/scratch/segsearch     # for prepared data and pretrained encoders

runs=runs                              # CHANGE: a folder that all nodes see

run=$runs/$SLURM_JOB_NAME
if [ -e "$run/run.yaml" ]; then
  which_run=(--resume "$run")
else
  which_run=(--out "$runs" --name "$SLURM_JOB_NAME")
fi
search=(python -m search.run "${which_run[@]}" "$@")

# The search notes its process, for it alone is to be stopped: Ray's processes must outlive it.
pid_file=$(mktemp)
search=(bash -c "echo \$\$ > $pid_file && exec \"\$@\"" -- "${search[@]}")

if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  # Whoever reaches Ray's ports may run code as you, unless a token is asked for.
  RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
  # Ray gives its nodes half a minute to start; from a shared disk that many read they take longer.
  export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_py_gcs_connect_timeout_s=300
  # Names of nodes are looked up as the system does it; gRPC asks DNS servers, which may take a minute.
  export GRPC_DNS_RESOLVER=native
  unset RAY_ADDRESS                    # of another cluster
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  search=(srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK"
    ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES"
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --
    "${search[@]}" --address "$head:6379")
else
  search+=(--address local)            # the job may have begun on several nodes
fi

go_on_later() {
  if [ -s "$pid_file" ]; then
    kill -TERM "$(cat "$pid_file")"
    timeout 120 tail --pid="$job" --follow /dev/null || true     # until the search, and Ray, have ended
  fi
  scontrol requeue "$SLURM_JOB_ID"
  exit
}
trap go_on_later USR1                  # which --signal brings when three minutes are left
trap 'rm -f "$pid_file"' EXIT

"${search[@]}" &
job=$!
wait "$job"
if [ ! -s "$pid_file" ]; then          # of which `ray symmetric-run` makes no error
  echo "error: Ray didn't start, so the search didn't either" >&2
  exit 1
fi
