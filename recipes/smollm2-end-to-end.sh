#!/usr/bin/env bash
# From raw text to an evaluated Self-RAG of 135M parameters, on CPUs alone: a local teacher labels,
# a critic learns from it, the critic annotates answers, a generator learns from those, and is
# evaluated beside the weights that it started from. Every step can be stopped and run again.
#
#   DATA=folder-of-labelled-sets OUT=runs/chain recipes/smollm2-end-to-end.sh
#
# LABELS             labelled sets whose seeds the teacher is asked about, and how many of each label;
#                    not SQuAD 2.0, whose questions are those of the evaluation
# QUESTIONS          raw questions to annotate; INSTRUCTIONS, that need no passage; PASSAGES, to search
# CRITIC_STEPS, GENERATOR_STEPS   optimizer steps of 1,024 tokens
# REFUSALS           rows that refuse a passage, at most, for one that answers
# REPLAY             records of the mix that START was trained on, for one annotated row
# EVALUATE           questions of SQuAD's development set
# CRITIC_BASE        what the critic starts from; a model that knows the tokens learns sooner
# THREADS            of the teacher (set OMP_NUM_THREADS for the rest)
# PRECISION          of training; bf16 is faster on a CPU that has it
set -euo pipefail

: "${DATA:?folder with the labelled sets}" "${OUT:?folder for the results}"
LABELS=${LABELS:-nq_open,entity,instructions,selqa,wice,factcheck,fool,fever,begin:100 asqa:30}
QUESTIONS=${QUESTIONS:-2000} INSTRUCTIONS=${INSTRUCTIONS:-400}
PASSAGES=${PASSAGES:-10000} CRITIC_STEPS=${CRITIC_STEPS:-300} GENERATOR_STEPS=${GENERATOR_STEPS:-300}
EVALUATE=${EVALUATE:-500} REFUSALS=${REFUSALS:-0.2} REPLAY=${REPLAY:-0.5}
THREADS=${THREADS:-2} PRECISION=${PRECISION:-auto}
SELFRAG=${SELFRAG:-selfrag} PYTHON=${PYTHON:-python}
START=${START:-src/selfrag/weights/smollm2-135m} CRITIC_BASE=${CRITIC_BASE:-$OUT/base}
recipes=$(dirname "$0")
train=(--set train.max_tokens=512 --set train.tokens_per_batch=1024 --set train.save_steps=20
  --set train.learning_rate=4e-4 --set train.eval_batches=4 --set train.precision="$PRECISION")

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
labels=()
for part in $LABELS; do
  labels+=("$OUT/labels-${part%:*}.jsonl")
  step "seeds-${part%:*}" "$PYTHON" "$recipes/default_weights/seeds.py" "$DATA" \
    --sets "${part%:*}" --per-label "${part#*:}" --out "$OUT/seeds-${part%:*}.jsonl"
  step "labels-${part%:*}" $SELFRAG annotate critic "$OUT/seeds-${part%:*}.jsonl" \
    --teacher local --balance --threads "$THREADS" --out "${labels[-1]}" \
    --answers "${ANSWERS:-$OUT/answers.sqlite}"
done
cat "${labels[@]}" > "$OUT/critic.jsonl"
step critic $SELFRAG train critic --model "$CRITIC_BASE" --data "$OUT/critic.jsonl" \
  --out "$OUT/critic" --labels token "${train[@]}" --set train.max_steps="$CRITIC_STEPS"
step critic-model $SELFRAG export "$OUT/critic" --out "$OUT/critic-model"
step data $SELFRAG annotate generator "$OUT/answers.jsonl" --critic "$OUT/critic-model" \
  --index "$OUT/index" --out "$OUT/train.jsonl"
step records "$PYTHON" "$recipes/default_weights/mix.py" \
  "$recipes/default_weights/long-135m-mix.toml" --data "$DATA" \
  --out "$OUT/records.jsonl"
step rows "$PYTHON" "$recipes/chain_rows.py" "$OUT/train.jsonl" "$OUT/records.jsonl" \
  "$OUT/rows.jsonl" --refusals "$REFUSALS" --replay "$REPLAY"
step generator $SELFRAG train generator --model "$OUT/base" --start "$START" \
  --data "$OUT/rows.jsonl" --out "$OUT/generator" "${train[@]}" \
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
