"""starsweep COMMAND ...: all commands under one name, and completion for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from trainer.settings import ArgumentParser

COMMANDS = {
    "run": ("sweep.run", "run a sweep, or go on with it"),
    "simulate": ("sweep.simulate", "what a sweep would find for its budget, on recorded curves"),
    "report": ("sweep.report", "one HTML file about a sweep, or several side by side"),
    "rerun": ("sweep.rerun", "the winner again, with other seeds, or on the test split"),
    "recipes": ("sweep.recipes", "sweep files that come with it, to be changed"),
    "card": ("sweep.card", "model card, weights and registry"),
    "sync": ("sweep.sync", "send to MLflow what it lacks"),
    "train": ("trainer.train", "train one configuration"),
    "evaluate": ("trainer.evaluate", "measure a trained network"),
    "predict": ("trainer.predict", "landmarks of pictures"),
    "show": ("trainer.show", "faces as the network gets them"),
    "export": ("trainer.export", "write a network as ONNX"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    words = list(argv) if argv is not None else sys.argv[1:]
    if words and words[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[words[0]][0])
        return int(module.main(words[1:]))
    parser = _parser()
    arguments = parser.parse(words)
    if arguments.print_completion is None:
        parser.print_help()
        return 2
    return _print_completion(arguments.print_completion)


def _parser() -> ArgumentParser:
    lines = "\n".join(f"  {name:10} {text} (python -m {module})" for name, (module, text) in COMMANDS.items())
    parser = ArgumentParser(prog="starsweep", description=f"{__doc__}\n\ncommands:\n{lines}")
    what = 'print a script that completes commands and options, such as: eval "$(starsweep --print-completion bash)"'
    parser.add_argument("--print-completion", choices=["bash", "zsh", "tcsh"], help=what)
    return parser


def _print_completion(shell: str) -> int:
    try:
        import shtab
    except ImportError:
        print("completion needs shtab: pip install 'starsweep[completion]'", file=sys.stderr)
        return 2
    parser = _parser()
    commands = parser.add_subparsers()
    for name, (module, text) in COMMANDS.items():
        inner = importlib.import_module(module).build_parser()
        commands.add_parser(name, parents=[inner], add_help=False, help=text)
    script = shtab.complete(parser, shell)
    print(script.replace("complete -o bashdefault", "complete -o default -o bashdefault"))  # file names too
    return 0


if __name__ == "__main__":
    sys.exit(main())
