#!/bin/bash
# One run on four nodes of eight GPUs without a scheduler: the same line on each node, with HOST the first one's name.
# torchrun's elastic agent starts all ranks again when one fails, up to --max-restarts times, and they go on from the last
# checkpoint. On SIGTERM it gives ranks 30 seconds, in which a small network saves; a large one needs checkpoint_minutes.
set -euo pipefail
python -m diffx +experiment=repa_xl trainer.devices=8 trainer.num_nodes=4 --cfg job --resolve > run.yaml
exec torchrun --nnodes=4 --nproc-per-node=8 --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$HOST:29500" --rdzv-id=repa_xl \
    -m diffx.worker run.yaml
