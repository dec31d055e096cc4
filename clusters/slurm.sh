#!/usr/bin/env bash
# raycondense on Slurm: Ray on all nodes of the job, the run on the first of them, and everything ends with it.
#
#   sbatch clusters/slurm.sh fit --preset imagenet1k_64 --data /scratch/train.beton --out runs/first \
#       --cluster.workers 8 --cluster.gpus-per-worker 1
#
# Data and run folder lie on a file system that all nodes share. Submitted again, or requeued after a lost node, the run goes on
# from its last checkpoint. EDIT the lines below for your cluster, and VENV to where `make setup` was run.
#SBATCH --job-name=raycondense
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
# Ray's own `ray stop` at the end ends every Ray of this user on the node: no two jobs on one node.
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=raycondense-%j.log
set -euo pipefail

VENV=${VENV:-$HOME/raycondense/.venv}
if (($# == 0)); then
    echo "usage: sbatch $0 VERB [OPTIONS], e.g. fit --preset imagenet1k_64 --data train.beton --cluster.workers 8" >&2
    exit 2
fi
export PATH=$VENV/bin:$PATH

# Whoever else is on the cluster's network cannot use this Ray without the token; homes are shared, so all nodes find it.
export RAY_AUTH_MODE=token
if [[ ! -s $HOME/.ray/auth_token ]]; then (umask 077 && ray get-auth-token --generate >/dev/null); fi
export RAY_USAGE_STATS_ENABLED=0
# Nodes of a large job start within minutes, not within Ray's 30 seconds.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}
# Betons at s3://… are staged on the node's own disk.
export XDG_CACHE_HOME=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/raycondense-cache
ulimit -n "$(ulimit -Hn)"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# A port of this job's own, in case another user's Ray is on the node.
port=$((20000 + SLURM_JOB_ID % 10000))
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "${nodes[0]}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    -- raycondense "$@"
