#!/usr/bin/env bash
# A stage of the recipe on a GPU that is there for minutes: as many steps as fit into them.
#
#   RECORDS=records.jsonl BASE=folder OUT=runs/gpu MINUTES=8 recipes/default_weights/on_gpu.sh
#
# RECORDS   from mix.py; BASE, a model's folder or id; START, the adapter to go on from, if any
# RECIPE    its losses, rank and learning rate; TOKENS, of a batch
# Nothing is fetched where BASE is a folder. The first steps are timed, then training begins anew;
# it ends before the time does where the records are few.
set -euo pipefail

: "${RECORDS:?file of records}" "${BASE:?base model}" "${OUT:?folder for the results}"
MINUTES=${MINUTES:-8} TOKENS=${TOKENS:-16384} PRECISION=${PRECISION:-bf16}
RECIPE=${RECIPE:-$(dirname "$0")/default-135m.toml} SELFRAG=${SELFRAG:-selfrag}

train() { # steps folder
  $SELFRAG train generator "$RECIPE" --records "$RECORDS" --base "$BASE" ${START:+--start "$START"} \
    --set train.precision="$PRECISION" --set train.tokens_per_batch="$TOKENS" \
    --set train.max_steps="$1" --out "$2" > /dev/null
}
seconds() { # steps: how long they take, with starting
  local begun=$SECONDS
  train "$1" "$OUT/timed-$1"
  echo $((SECONDS - begun))
}

mkdir -p "$OUT"
few=$(seconds 5) many=$(seconds 45)
left=$((MINUTES * 60 - SECONDS - few - 15)) # starting again, and writing the adapter
steps=$((many > few ? left * 40 / (many - few) : left * 40))
((steps > 0)) || { echo "error: cannot train in $MINUTES minutes: 50 steps took $SECONDS s" >&2; exit 1; }
echo "5 and 45 steps took $few and $many s, so $steps fit"
train "$steps" "$OUT/run"
rm -r "$OUT"/timed-*
echo "adapter in $OUT/run/adapter after $SECONDS s"
