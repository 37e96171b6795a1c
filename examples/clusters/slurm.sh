#!/bin/bash
# A run on several machines with Slurm: sbatch examples/clusters/slurm.sh --data /shared/photos
# The arguments are those of `googlenet train`. Images and runs are on a disk that all machines see.
#SBATCH --job-name=googlenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
# SIGTERM to this script two minutes before the time is over; a preempted job gets it as well
#SBATCH --signal=B:TERM@120
set -u

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Else a host that replaces another one waits for an address that nobody sends it (PyTorch 2.13)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# One torchrun on each machine, which starts a process for each GPU. A process that dies is started again, and the run
# continues from its last checkpoint. The job keeps its number when it is queued again, so it also continues then
srun --kill-on-bad-exit=0 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$first:29400" --rdzv-id "$SLURM_JOB_ID" \
    -m googlenet train "$@" --output "runs/slurm-$SLURM_JOB_ID" &
run=$!

# srun passes the signal on: every process saves after its step. Then the job goes back into the queue
stop() {
    kill -TERM "$run"
    wait "$run"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap stop TERM
wait "$run"
