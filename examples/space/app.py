"""A Hugging Face Space that shows the page of `linvt web`; the variable LINVT_MODEL of the Space names the model."""

import os

from transformers_linvt.cli import main


model = os.environ.get("LINVT_MODEL")
arguments = ["web", *([model] if model else []), "--host", "0.0.0.0", "--port", os.environ.get("PORT", "7860")]
if __name__ == "__main__":
    raise SystemExit(main(arguments))
