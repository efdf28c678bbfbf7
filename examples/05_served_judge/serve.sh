#!/bin/sh
# Serves the judge with vLLM, in an environment of its own: vLLM pins a torch and a transformers that are not ours.
#   sh examples/05_served_judge/serve.sh            MODEL, LISTEN, PORT, VENV, GPUS and VLLM_API_KEY may be set
set -eu
MODEL=${MODEL:-Qwen/Qwen2.5-7B-Instruct}
LISTEN=${LISTEN:-127.0.0.1}
PORT=${PORT:-8000}
VENV=${VENV:-.venv-vllm}
GPUS=${GPUS:-1}
if ! [ -x "$VENV/bin/vllm" ]; then
  ${PYTHON:-python3} -m venv "$VENV"
  "$VENV/bin/pip" install --quiet 'vllm>=0.22'
fi
# prefix caching: what questions share is read once; raw log-probabilities: the judge's own, not those after sampling
# settings; generation-config vllm: no temperature or repetition penalty of the model's author beside the recipe's
exec "$VENV/bin/vllm" serve "$MODEL" --host "$LISTEN" --port "$PORT" --tensor-parallel-size "$GPUS" \
  --enable-prefix-caching --max-logprobs 20 --logprobs-mode raw_logprobs --generation-config vllm --seed 0 "$@"
