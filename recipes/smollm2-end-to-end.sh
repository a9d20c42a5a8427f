#!/usr/bin/env bash
# From raw text to an evaluated Self-RAG of 135M parameters, on CPUs alone: a local teacher labels,
# a critic learns from it, the critic annotates answers, a generator learns from those, and is
# evaluated beside the weights that it started from. Every step can be stopped and run again.
#
#   DATA=folder-of-labelled-sets OUT=runs/chain recipes/smollm2-end-to-end.sh
#
# PER_LABEL          seeds of each label and labelled set that the teacher is asked about
# QUESTIONS          raw questions to annotate; INSTRUCTIONS, that need no passage; PASSAGES, to search
# CRITIC_STEPS, GENERATOR_STEPS   optimizer steps of 1,024 tokens
# EVALUATE           questions of SQuAD's development set
# THREADS            of the teacher (set OMP_NUM_THREADS for the rest)
set -euo pipefail

: "${DATA:?folder with the labelled sets}" "${OUT:?folder for the results}"
PER_LABEL=${PER_LABEL:-100} QUESTIONS=${QUESTIONS:-2000} INSTRUCTIONS=${INSTRUCTIONS:-400}
PASSAGES=${PASSAGES:-10000} CRITIC_STEPS=${CRITIC_STEPS:-300} GENERATOR_STEPS=${GENERATOR_STEPS:-300}
EVALUATE=${EVALUATE:-500} THREADS=${THREADS:-2}
SELFRAG=${SELFRAG:-selfrag} PYTHON=${PYTHON:-python}
START=${START:-weights/smollm2-135m}
recipes=$(dirname "$0")
train=(--set train.max_tokens=512 --set train.tokens_per_batch=1024 --set train.save_steps=20
  --set train.learning_rate=4e-4 --set train.eval_batches=4)

step() { # name command... : runs it once, and keeps how long it took
  local name=$1
  shift
  [[ -f $OUT/$name.seconds ]] && return
  printf '\n== %s: %s\n' "$name" "$*"
  local begun=$SECONDS
  "$@"
  echo $((SECONDS - begun)) > "$OUT/$name.seconds"
}

mkdir -p "$OUT"
step raw "$PYTHON" "$recipes/raw_text.py" "$DATA" "$OUT" --passages "$PASSAGES" \
  --questions "$QUESTIONS" --instructions "$INSTRUCTIONS"
step index $SELFRAG index build "$OUT/passages.jsonl" --out "$OUT/index"
step base $SELFRAG train base --out "$OUT/base"
step labels $SELFRAG annotate critic "$DATA" --teacher local --balance --per-label "$PER_LABEL" \
  --threads "$THREADS" --out "$OUT/critic.jsonl" --answers "${ANSWERS:-$OUT/answers.sqlite}"
step critic $SELFRAG train critic --model "$OUT/base" --data "$OUT/critic.jsonl" \
  --out "$OUT/critic" --labels token "${train[@]}" --set train.max_steps="$CRITIC_STEPS"
step critic-model $SELFRAG export "$OUT/critic" --out "$OUT/critic-model"
step data $SELFRAG annotate generator "$OUT/answers.jsonl" --critic "$OUT/critic-model" \
  --index "$OUT/index" --out "$OUT/train.jsonl"
step generator $SELFRAG train generator --model "$OUT/base" --start "$START" \
  --data "$OUT/train.jsonl" --out "$OUT/generator" "${train[@]}" \
  --set train.max_steps="$GENERATOR_STEPS"
step generator-model $SELFRAG export "$OUT/generator" --out "$OUT/generator-model"
for model in first chain; do
  weights=()
  [[ $model == chain ]] && weights=(--model "$OUT/generator-model")
  step "eval-$model" $SELFRAG eval --task squad_open --data "$DATA/squad/dev_v1.1.jsonl.zst" \
    --sample "$EVALUATE" --seed 0 --index "$OUT/index" --top-k 5 --label "$model" \
    --out "$OUT/eval-$model" "${weights[@]}"
done
step report $SELFRAG report "$OUT/eval-first" "$OUT/eval-chain" --out "$OUT/report.html"
for file in "$OUT"/*.seconds; do
  printf '%-18s %5d s\n' "$(basename "$file" .seconds)" "$(< "$file")"
done
cat "$OUT/report.md"
