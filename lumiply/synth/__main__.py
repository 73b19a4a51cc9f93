"""`python -m lumiply.synth`: render synthetic rooms."""

from lumiply.synth.command import synth

if __name__ == "__main__":
    synth(prog_name="python -m lumiply.synth")
