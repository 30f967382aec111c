#!/bin/sh
# The cascade of the paper at toy size, on a CPU, in less than twenty minutes: a corpus from the
# standard library, four stages, and a table and a picture of what each of them did.
#
#   runs/cascade.sh [FOLDER]          default: build/cascade
set -eu
cd "$(dirname "$0")/.."
out=${1:-build/cascade}
run=${CODELLAMA:-codellama}

if ! [ -f "$out-corpus/chat.jsonl" ] || ! [ -d "$out-corpus/tokens" ]; then
  "$run" data build recipes/corpus/standard-library.toml --out "$out-corpus" \
    --vocabulary 2048 --chat recipes/corpus/chat.toml --conversations 3000
fi
"$run" train recipes/cascade/cascade.toml --corpus "$out-corpus" --out "$out" --effects
"$run" chat --model "$out/model" "Write a function that adds two numbers." || true
echo "$out/effects.svg $out/curves.svg"
