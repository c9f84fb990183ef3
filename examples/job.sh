#!/bin/bash
# A batch job whose steps run in an image. Convert once, where the network and the disk are, then submit:
#
#   coracle build app.sqfs docker://registry.example.org/team/app:1.2
#   sbatch examples/job.sh app.sqfs python3 train.py
#
# Works under any scheduler, and without one: `coracle` becomes the program, so limits, accounting and signals are those
# of the job.
#SBATCH --job-name=coracle
#SBATCH --nodes=1
#SBATCH --time=00:10:00
set -euo pipefail

image=${1:?usage: job.sh IMAGE COMMAND [ARG]...}
shift

# With a scheduler each task is one launch; without one there is a single task.
if command -v srun >/dev/null && [ -n "${SLURM_JOB_ID:-}" ]; then
    exec srun coracle exec "$image" "$@"
fi
exec coracle exec "$image" "$@"
