#!/bin/sh
# make demo: the whole recipe on the embedded models. FEEDBACK=self uses the policy as its own feedback model.
set -eu
BIN=${BIN:-.venv/bin}
FEEDBACK=${FEEDBACK:-embedded:qwen2.5-coder-1.5b}
if [ "$FEEDBACK" != self ] && ! "$BIN/constitutional" models list | grep -q '^qwen2.5-coder-1.5b *ready'; then
  echo "The feedback model is not here and cannot be had: falling back to feedback: self (the 135M policy judges itself)."
  FEEDBACK=self
fi
NAME=quickstart
if [ "$FEEDBACK" = self ]; then
  NAME=quickstart-self
fi
exec "$BIN/constitutional" run examples/01_quickstart/recipe.yaml \
  --set "name=$NAME" --set "feedback=$FEEDBACK"
