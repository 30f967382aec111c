"""lm-evaluation-harness' local-completions on a small task: scores need `echo` and `logprobs`.

The server's tokenizer, asked over HTTP, and the same vocabulary from tokenizer.json have to give
equal scores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
from lm_eval.tasks import TaskManager

base = f"http://127.0.0.1:{sys.argv[1]}/v1/completions"
nano = Path(__file__).parents[2] / "src" / "codellama" / "nano"
rows = [
    {"question": f"def add{i}(a, b):\n    return a", "choices": [" + b", " zebra ~~", "(((("],
     "answer": 0}
    for i in range(12)
]  # fmt: skip
TASK = """\
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""

with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    (Path(folder) / "tiny.yaml").write_text(TASK.format(data=data))
    scores = []
    for backend in (f"tokenizer_backend=huggingface,tokenizer={nano}", "tokenizer_backend=remote"):
        found = lm_eval.simple_evaluate(
            model="local-completions",
            model_args=f"model=codellama-nano,base_url={base},max_length=256,{backend}",
            tasks=["tiny_choice"],
            task_manager=TaskManager(include_path=folder),
            log_samples=True,
            bootstrap_iters=0,
        )
        samples = found["samples"]["tiny_choice"]
        scores.append([[float(r[0][0]) for r in one["resps"]] for one in samples])
        print(backend.split(",")[0], found["results"]["tiny_choice"])
assert all(score < 0 for one in scores[0] for score in one), scores[0]
assert len(scores[0]) == len(rows)
for one, two in zip(*scores, strict=True):
    assert all(abs(a - b) < 1e-4 for a, b in zip(one, two, strict=True)), (one, two)
print("lm_eval: good")
