"""Train the embedded mini model on rendered rooms. `python train_mini.py --help` lists the options."""

from lumiply.training.command import main

if __name__ == "__main__":
    main()
