#!/usr/bin/env bash
# Table 2 of the paper for the released weights, on one machine with one GPU. Every step can be
# stopped and run again: answered questions are kept, finished steps take seconds.
#
#   MODEL_7B=/models/selfrag_llama2_7b DATA=/data/eval_data OUT=runs/paper recipes/reproduce.sh
#
# MODEL_7B, MODEL_13B  folders of selfrag/selfrag_llama2_7b and _13b; one of them is enough
# DATA                 folder with the release's evaluation files, named as below
# OUT                  folder for records, numbers and the report
# DEVICE               cuda (default) or cpu           ENGINE  transformers (default) or vllm
# NLI_MODEL            folder of t5_xxl_true_nli_mixture, for ASQA's citations (optional)
# TASKS, LIMIT, EXTRA  fewer tasks, fewer questions, more options of `selfrag eval`: a dry run
#
# Hours on one A100-80GB, by tokens written (about 1,000 a question): 7B some 12, 13B some 20;
# not measured. Without a GPU only a dry run makes sense.
set -euo pipefail

: "${DATA:?folder with the evaluation files}" "${OUT:?folder for the results}"
DEVICE=${DEVICE:-cuda}
ENGINE=${ENGINE:-transformers}
TASKS=${TASKS:-popqa triviaqa pubhealth arc_challenge asqa biographies}
SELFRAG=${SELFRAG:-selfrag}
read -r -a extra <<< "${EXTRA:-}"
[[ -n ${LIMIT:-} ]] && extra+=(--limit "$LIMIT")

declare -A FILES=(
  [popqa]=popqa_longtail_w_gs.jsonl
  [triviaqa]=triviaqa_test_w_gs.jsonl
  [pubhealth]=health_claims_processed.jsonl
  [arc_challenge]=arc_challenge_processed.jsonl
  [asqa]=asqa_eval_gtr_top100.json
  [biographies]=factscore_unlabeled_alpaca_13b_retrieval.jsonl
)

missing=0 outside=0 folders=()

step() { printf '\n== %s\n' "$*"; }

answer() { # size model task
  local out=$OUT/$1-$3
  if [[ ! -f $DATA/${FILES[$3]} ]]; then
    echo "left out: $3 needs ${FILES[$3]} in $DATA; selfrag eval fetch $3 says what it is"
    missing=$((missing + 1))
    return
  fi
  # The released gate retrieved for every question, so the published numbers are those of always;
  # each of its segments had all passages to choose from, and the retriever's score was forgotten.
  $SELFRAG eval --task "$3" --system selfrag --mode always --set repeat=true --set join_relevance=0 \
    --set weights.retrieval=0 --model "$2" --engine "$ENGINE" --device "$DEVICE" \
    --data "$DATA/${FILES[$3]}" --label "selfrag-$1" --out "$out" "${extra[@]}"
  folders+=("$out")
  case $3 in
    asqa)
      [[ -n ${NLI_MODEL:-} ]] && $SELFRAG eval judge "$out" --judge nli --model "$NLI_MODEL"
      $SELFRAG eval export "$out" --format alce --out "$out/alce.json"
      echo "ALCE's own scorer: python eval.py --f $out/alce.json --citations --qa --mauve"
      ;;
    biographies)
      $SELFRAG eval export "$out" --format factscore --out "$out/factscore.jsonl"
      echo "FActScore (published: 7b .812, 13b .802): python -m factscore.factscorer" \
        "--input_path $out/factscore.jsonl --model_name retrieval+ChatGPT"
      return
      ;;
  esac
  $SELFRAG eval check "$out" --published "selfrag-$1" || outside=$((outside + 1))
}

for size in 7b 13b; do
  name=MODEL_${size^^}
  [[ -n ${!name:-} ]] || continue
  for task in $TASKS; do
    step "$size, $task"
    answer "$size" "${!name}" "$task"
  done
done

[[ ${#folders[@]} -gt 0 ]] || { echo "nothing was run: set MODEL_7B or MODEL_13B, and DATA" >&2; exit 2; }
step report
$SELFRAG report "${folders[@]}" --out "$OUT/report.html" --title "Self-RAG, table 2"
echo "$missing tasks left out, $outside outside their tolerance"
[[ $outside -eq 0 ]]
