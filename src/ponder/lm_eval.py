"""Checkpoints in lm-evaluation-harness, with its own command line:

    python -m ponder.lm_eval --model ponder --model_args checkpoint=star_runs/... --tasks arc_easy

is `lm_eval` with the same arguments, and one model more: `ponder`. lm_eval has no way to find
models of other packages by itself. In Python `import ponder.lm_eval` makes the model known to
`lm_eval.simple_evaluate(model="ponder", ...)`. docs/lm_eval.md says how contexts are read.
"""

from __future__ import annotations

import importlib.util
import sys

from ponder.config.errors import UserError

MISSING = ("ponder.lm_eval: found no package lm_eval; legal: after pip install 'ponder[lm-eval]'")

if importlib.util.find_spec("lm_eval") is not None:
    from ponder.generation.harness import PonderLM, main
elif __name__ == "__main__":
    print(f"error: {MISSING}", file=sys.stderr)
    sys.exit(2)
else:
    raise UserError(MISSING)

__all__ = ["PonderLM", "main"]

if __name__ == "__main__":
    sys.exit(main())
