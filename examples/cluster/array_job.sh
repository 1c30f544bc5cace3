#!/usr/bin/env bash
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=00:30:00
#
# One job for each line of a list of results, on a cluster with Slurm (in others only the name of the number differs):
#
#   actsort model day1/suite2p --save our-model
#   ls -d day*/suite2p > results.txt
#   sbatch --array=1-$(wc -l < results.txt) array_job.sh our-model results.txt sorted
#   python summary.py sorted/*.json        # when all are done
set -uo pipefail
model=$1 list=$2 out=$3
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} # or each job would take all processors of its machine
result=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$list")
if [ -z "$result" ]; then
  echo "$list has no line $SLURM_ARRAY_TASK_ID" >&2
  exit 2
fi
mkdir -p "$out"
file=$out/$SLURM_ARRAY_TASK_ID.json
actsort apply --json "$model" "$result" > "$file.part"
status=$? # 1: this result failed, and the file says why
[ "$status" -gt 1 ] || mv "$file.part" "$file"
exit "$status"
