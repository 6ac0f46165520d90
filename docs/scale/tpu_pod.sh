#!/bin/bash
# A TPU pod slice without Kubernetes: the same command on all of its machines. `bash docs/scale/tpu_pod.sh`
# Before: create the slice, and on --worker=all install (pip install "jaxseg[tpu,gcs]"), clone the checkout to ~/jaxseg and mount
# the shared file system.
set -euo pipefail

TPU=${TPU:-jaxseg-v5e-16}
ZONE=${ZONE:-us-west4-a}
CONFIG=${CONFIG:-configs/mask_rcnn.py:r50,coco}
WORKDIR=${WORKDIR:-/shared/runs/r50}
CHECKPOINTS=${CHECKPOINTS:-gs://BUCKET/runs/r50}

# jax finds the other machines through the metadata server. When one process is gone, the others end within 60 s; each
# machine starts its own again, and they meet. A mistake (2) and Ctrl-C (130) end it, and so does the file `stop`.
read -r -d '' TRAIN <<REMOTE || true
cd ~/jaxseg
while true; do
  status=0
  python3 train.py --config=$CONFIG --workdir=$WORKDIR --config.checkpoints=$CHECKPOINTS --start_timeout=300 || status=\$?
  if [ -e $WORKDIR/stop ]; then exit \$status; fi
  case \$status in
    75 | 134 | 135 | 137 | 139 | 143) sleep 5 ;;
    *) exit \$status ;;
  esac
done
REMOTE

gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$TRAIN"

# To stop it with a save (and `rm` the file before the next start):
#   gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 --command="touch $WORKDIR/stop; pkill -TERM -f train.py"
