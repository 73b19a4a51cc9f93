"""Fine-tune the attention of a model on your own photos. `python train_crossattn.py --help` lists the options."""

import sys

from lumiply.cli import main

if __name__ == "__main__":
    main(["train", "crossattn", *sys.argv[1:]], prog_name="lumiply")
