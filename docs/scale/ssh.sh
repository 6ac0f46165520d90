#!/bin/bash
# Machines with ssh and no scheduler, one process each. `bash docs/scale/ssh.sh node1 node2 ...`, from the checkout, which lies at
# the same place on all of them. The first machine must be reachable from the others at that name, on port $PORT.
set -uo pipefail

CONFIG=${CONFIG:-configs/mask_rcnn.py:r50,coco}
WORKDIR=${WORKDIR:-/shared/runs/r50} # on a file system that all machines see
PORT=${PORT:-8476}
hosts=("$@")

pids=()
for i in "${!hosts[@]}"; do
  # -tt: what runs there ends with the connection.
  (ssh -tt "${hosts[$i]}" "cd '$PWD' && exec python train.py --config=$CONFIG --workdir=$WORKDIR \
    --coordinator_address=${hosts[0]}:$PORT --num_processes=${#hosts[@]} --process_id=$i" \
    < /dev/null 2>&1 | sed -u "s/^/[$i] /") &
  pids+=($!)
done

# All of them end when one does. The lowest status that is not 0 says most: 2 is a mistake, 75 its consequence elsewhere.
result=0
for pid in "${pids[@]}"; do
  wait "$pid" || { status=$?; ((result && result < status)) || result=$status; }
done
exit "$result"

# To stop it with a save: ssh node1 pkill -TERM -f train.py
