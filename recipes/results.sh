#!/usr/bin/env bash
# docs/results: the default weights and every baseline with the same base model, on eight tasks.
# Every step can be stopped and run again.
#
#   DATA=folder-of-labelled-sets OUT=runs/results QUESTIONS=100 PRECISION=bf16 recipes/results.sh
#
# QUESTIONS, DISTRACTORS   drawn for each task; passages beside those that are asked about
# TASKS, SYSTEMS, LIMIT    fewer tasks, systems or questions
# PRECISION                of the engine, as in `selfrag eval`
# OTHER                    folder of another model NAME, asked with five passages: the system NAME-rag-top5
set -euo pipefail

: "${DATA:?folder with the labelled sets}" "${OUT:?folder for the results}"
SELFRAG=${SELFRAG:-selfrag} PYTHON=${PYTHON:-python}
QUESTIONS=${QUESTIONS:-20} DISTRACTORS=${DISTRACTORS:-4000}
read -r -a tasks <<< "${TASKS:-squad_open nq_open popqa triviaqa arc_challenge openbookqa boolq asqa}"
other=${OTHER:+$(basename "$OTHER")-rag-top5}
systems=" ${SYSTEMS:-selfrag rag-top1 rag-top5 vanilla $other} "
recipes=$(dirname "$0")

[[ -f $OUT/data/passages.jsonl ]] || "$PYTHON" "$recipes/results_data.py" "$DATA" "$OUT/data" \
  --questions "$QUESTIONS" --distractors "$DISTRACTORS"
[[ -d $OUT/index ]] || $SELFRAG index build "$OUT/data/passages.jsonl" --out "$OUT/index"

folders=()
answer() { # task label option...
  local task=$1 label=$2 out=$OUT/$2-$1
  shift 2
  [[ $systems == *" $label "* ]] || return 0
  [[ -n ${LIMIT:-} ]] && set -- "$@" --limit "$LIMIT"
  set -- "$@" --precision "${PRECISION:-auto}"
  $SELFRAG eval --task "$task" --data "$OUT/data/$task.jsonl" --label "$label" --out "$out" "$@"
  folders+=("$out")
}
for task in "${tasks[@]}"; do
  passages=(--index "$OUT/index")
  answer "$task" selfrag --system selfrag --top-k 5 "${passages[@]}"
  answer "$task" rag-top1 --system rag --top-k 1 "${passages[@]}"
  answer "$task" rag-top5 --system rag --top-k 5 "${passages[@]}"
  answer "$task" vanilla --system vanilla
  [[ -z $other ]] || answer "$task" "$other" --system rag --top-k 5 "${passages[@]}" --model "$OTHER"
done
for folder in "${folders[@]}"; do
  if [[ $folder == *-asqa ]]; then $SELFRAG eval judge "$folder"; fi
done
$SELFRAG report "${folders[@]}" --out "$OUT/report.html"
