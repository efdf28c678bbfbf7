#!/bin/sh
# make demo: the whole recipe on the embedded models. FEEDBACK=self makes the policy its own feedback model.
set -eu
BIN=${BIN:-.venv/bin}
FEEDBACK=${FEEDBACK:-qwen}
RECIPE=examples/01_quickstart/recipe.yaml
if [ "$FEEDBACK" != self ] && ! "$BIN/constitutional" models list | grep -q '^qwen2.5-coder-1.5b *ready'; then
  echo "The feedback model is not here and cannot be had: falling back to feedback: self (the 135M policy judges itself)."
  FEEDBACK=self
fi
if [ "$FEEDBACK" = self ]; then
  "$BIN/constitutional" run "$RECIPE" --set name=quickstart-self --set feedback=self --set judge=self || [ $? -eq 3 ]
  exit
fi
# exit code 3: complete, though some items (an empty answer, say) could not be used; the summary counts them
"$BIN/constitutional" run "$RECIPE" || [ $? -eq 3 ]
