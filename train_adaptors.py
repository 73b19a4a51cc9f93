"""Train the colours' adaptors of a model on your own photos. `python train_adaptors.py --help` lists the options."""

import sys

from lumiply.cli import main

if __name__ == "__main__":
    main(["train", "adaptors", *sys.argv[1:]], prog_name="lumiply")
