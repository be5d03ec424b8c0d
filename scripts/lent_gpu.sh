#!/usr/bin/env bash
# Full runs on a GPU machine without a network that is lent for minutes; from the repository's root:
#
#     AION_LITE_COMMIT=$(git rev-parse HEAD) bash scripts/lent_gpu.sh WHEELS MINUTES JOBS PAGE [PAGE ...]
#
# WHEELS: a folder of wheels that are missing there (papermill, ipykernel, jupytext, ipywidgets, datasets and
# their needs; polymathic-aion for the benchmarks). MINUTES: of the call; what is not done by then is ended.
# JOBS: processes at a time on each GPU. GIVEN="data_dir=FOLDER" in the environment is a parameter for all
# pages of the call. What is done goes into $OUT/full.tar.gz: unpack it in runs/full/ where the book is, take
# that folder along to the next call, and what is there is not run again. When all is there,
# `python scripts/full_run.py PAGE --resume --minutes 0` merges it.
set -uo pipefail
wheels=$1 minutes=$2 jobs=$3
shift 3
: "${AION_LITE_COMMIT:?the commit of these files, as git rev-parse HEAD has it}"
work=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheels"/*.whl || exit 3
export PYTHONPATH=$PWD:$work/site MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1  # many processes share the cores
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton AION_LITE_COMMIT
export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps
mkdir "$work/mps" && nvidia-cuda-mps-control -d || echo "no MPS daemon: processes take turns on the GPU"
python3 scripts/full_run.py "$@" --jobs "$jobs" --minutes "$minutes" --resume ${GIVEN:+-p "$GIVEN"}
status=$?
(cd runs/full && find . -name results.json -o -name log.txt | tar czf "${OUT:-..}/full.tar.gz" -T -)
exit $status
